"""Errors as gRPC statuses, in both directions.

luno/reflex tells errors apart by codes of its own, which travel as luno/jettison's message in the status
details; servers without jettison's interceptor send a status UNKNOWN with a message in words. Ours send an
honest status code and the details; all of these are understood.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import grpc
from google.protobuf.message import DecodeError

from reflex_aio import pb
from reflex_aio.errors import (
    ConnectionLost,
    CursorAhead,
    InvalidCursor,
    MessageTooLarge,
    ReflexError,
    RemoteError,
    StreamClosed,
    StreamStopped,
    UnknownStream,
)
from reflex_aio.rpc.convert import MalformedMessage

_DETAILS_KEY = "grpc-status-details-bin"
_JETTISON_TYPE = "type.googleapis.com/jettisonpb.WrappedError"

# The headers' limit is 8 KiB; the message is in there three times, and a character may take twelve bytes.
_LONGEST_MESSAGE = 300


class _ReflexCode(StrEnum):
    STOPPED = "ERR_09290f5944cb8671"
    HEAD_REACHED = "ERR_b4b155d2a91cfcd0"
    INVALID_ID = "ERR_82d0368b5478d378"


# As Go words them, somewhere in the message.
_WORDS = {
    "the event stream has been stopped": _ReflexCode.STOPPED,
    "the event stream has reached the current head": _ReflexCode.HEAD_REACHED,
    "invalid id, only int supported": _ReflexCode.INVALID_ID,
}


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ends. ``reflex_code`` is luno/reflex's code of the error, if it has one."""

    code: grpc.StatusCode
    message: str
    reflex_code: _ReflexCode | None = None

    @classmethod
    def of(cls, code: grpc.StatusCode, error: Exception, reflex_code: _ReflexCode | None = None) -> Self:
        """Return the status that tells what ``error`` says, cut to what fits into HTTP/2's headers."""
        return cls(code, str(error)[:_LONGEST_MESSAGE], reflex_code)

    def trailer(self) -> tuple[tuple[str, bytes], ...]:
        """Return the trailing metadata that make a Go client understand."""
        if self.reflex_code is None:
            return ()
        error = pb.WrappedError(message=self.message, code=self.reflex_code)
        status = pb.Status(
            code=self.code.value[0],
            message=self.message,
            details=[pb.Any(type_url=_JETTISON_TYPE, value=error.SerializeToString())],
        )
        return ((_DETAILS_KEY, status.SerializeToString()),)


STOPPED = Status(grpc.StatusCode.UNAVAILABLE, "the event stream has been stopped", _ReflexCode.STOPPED)
HEAD_REACHED = Status(
    grpc.StatusCode.OUT_OF_RANGE, "the event stream has reached the current head", _ReflexCode.HEAD_REACHED
)
# What went wrong is the server's own business: its log has it.
FAILED = Status(grpc.StatusCode.INTERNAL, "the event stream failed in the server")
SOURCE_LOST = Status(grpc.StatusCode.UNAVAILABLE, "the server has lost the source of the event stream")


def status_of(error: Exception) -> Status | None:
    """Return how a call ends that meets ``error``, or ``None`` if that is an error nobody expects."""
    match error:
        case StreamStopped() | StreamClosed():
            return STOPPED
        case InvalidCursor():
            return Status.of(grpc.StatusCode.INVALID_ARGUMENT, error, _ReflexCode.INVALID_ID)
        case MalformedMessage():
            return Status.of(grpc.StatusCode.INVALID_ARGUMENT, error)
        case UnknownStream():
            return Status.of(grpc.StatusCode.NOT_FOUND, error)
        case CursorAhead():
            return Status.of(grpc.StatusCode.FAILED_PRECONDITION, error)
        case MessageTooLarge():
            return Status.of(grpc.StatusCode.RESOURCE_EXHAUSTED, error)
        case ConnectionLost():
            return SOURCE_LOST
        case _:
            return None


def is_unimplemented(error: grpc.aio.AioRpcError) -> bool:
    """Tell whether the server doesn't have the method called."""
    return error.code() is grpc.StatusCode.UNIMPLEMENTED


def is_head_reached(error: grpc.aio.AioRpcError) -> bool:
    """Tell whether a stream has ended because it is at the head."""
    return _reflex_code(error) is _ReflexCode.HEAD_REACHED


def error_of(error: grpc.aio.AioRpcError, *, after: str, stream: str | None) -> ReflexError:
    """Return what the failure of a call means.

    :param after: the cursor that the call was made with
    :param stream: the name of the stream that it asked for
    """
    code, text = error.code(), error.details() or "no further information"
    match _reflex_code(error):
        case _ReflexCode.STOPPED:
            return StreamStopped()
        case _ReflexCode.INVALID_ID:
            return InvalidCursor(after, f"one of the remote stream's, which says: {text}")
    match code:
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return ConnectionLost(f"{code.name}: {text}")
        case grpc.StatusCode.CANCELLED:
            return StreamStopped(f"the server has cancelled the event stream: {text}")
        case grpc.StatusCode.NOT_FOUND:
            return UnknownStream(text, name=stream)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in text:
            return MessageTooLarge(
                f"a message of the event stream is larger than is allowed ({text}): raise the channel option"
                " grpc.max_receive_message_length, as channel_options(max_message=...) does, and the server's"
                " grpc.max_send_message_length if that is set"
            )
        case _:
            return RemoteError(text, code=code.name)


def _reflex_code(error: grpc.aio.AioRpcError) -> _ReflexCode | None:
    """Return luno/reflex's code of an error, by its details or by its words."""
    for code in _jettison_codes(error):
        if code in _ReflexCode.__members__.values():
            return _ReflexCode(code)
    text = error.details() or ""
    return next((code for words, code in _WORDS.items() if words in text), None)


def _jettison_codes(error: grpc.aio.AioRpcError) -> Iterator[str]:
    """Return the codes in the status details, of an error and those that it wraps."""
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            status = pb.Status.FromString(value)
            pending = [
                pb.WrappedError.FromString(detail.value)
                for detail in status.details
                if detail.type_url == _JETTISON_TYPE
            ]
        except DecodeError:
            # Details that can't be read tell nothing; the code and the message still do.
            continue
        while pending:
            wrapped = pending.pop()
            yield wrapped.code
            pending.extend(wrapped.joined_errors)
            if wrapped.HasField("wrapped_error"):
                pending.append(wrapped.wrapped_error)
