"""Mapping of errors to gRPC statuses on the server, and of gRPC statuses to errors on the client.

luno/reflex identifies errors by its own codes, sent as luno/jettison's message in the status details. Servers without
jettison's interceptor send the status UNKNOWN and only a text. Our servers send an exact status code and the details.
The client understands all three.
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
from reflex_aio.rpc.protocol import MalformedMessage

_DETAILS_KEY = "grpc-status-details-bin"
_JETTISON_TYPE = "type.googleapis.com/jettisonpb.WrappedError"

# Headers are limited to 8 KiB. They contain the message three times, and a character may take twelve bytes.
_LONGEST_MESSAGE = 300


class _ReflexCode(StrEnum):
    STOPPED = "ERR_09290f5944cb8671"
    HEAD_REACHED = "ERR_b4b155d2a91cfcd0"
    INVALID_ID = "ERR_82d0368b5478d378"


# The texts of luno/reflex, which may be anywhere in the message.
_GO_TEXTS = {
    "the event stream has been stopped": _ReflexCode.STOPPED,
    "the event stream has reached the current head": _ReflexCode.HEAD_REACHED,
    "invalid id, only int supported": _ReflexCode.INVALID_ID,
}


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a call that has ended. ``reflex_code`` is luno/reflex's code of the error, if it has one."""

    code: grpc.StatusCode
    message: str
    reflex_code: _ReflexCode | None = None

    @classmethod
    def of(cls, code: grpc.StatusCode, error: Exception, reflex_code: _ReflexCode | None = None) -> Self:
        """Return a status with the message of ``error``, truncated to fit into HTTP/2 headers."""
        return cls(code, str(error)[:_LONGEST_MESSAGE], reflex_code)

    def trailer(self) -> tuple[tuple[str, bytes], ...]:
        """Return the trailing metadata by which a Go client identifies the error."""
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
# The message must not reveal the server's error, which may contain secrets. It is in the server's log.
FAILED = Status(grpc.StatusCode.INTERNAL, "the event stream failed in the server")
SOURCE_LOST = Status(grpc.StatusCode.UNAVAILABLE, "the server has lost the source of the event stream")


def status_for_error(error: Exception) -> Status | None:
    """Return the status for a call that ends with ``error``, or ``None`` if the error is unexpected."""
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
    """Return whether the call failed because the server lacks the method."""
    return error.code() is grpc.StatusCode.UNIMPLEMENTED


def is_head_reached(error: grpc.aio.AioRpcError) -> bool:
    """Return whether the stream ended because it has reached the head."""
    return _find_reflex_code(error) is _ReflexCode.HEAD_REACHED


def error_for_status(error: grpc.aio.AioRpcError, *, after: str, stream: str | None) -> ReflexError:
    """Return the error that the status of a failed call stands for.

    :param after: the cursor of the request
    :param stream: the stream name of the request
    """
    code, text = error.code(), error.details() or "no further information"
    match _find_reflex_code(error):
        case _ReflexCode.STOPPED:
            return StreamStopped()
        case _ReflexCode.INVALID_ID:
            return InvalidCursor(after, f"one of the remote stream's ({text})")
    match code:
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return ConnectionLost(f"{code.name}: {text}")
        case grpc.StatusCode.CANCELLED:
            return StreamStopped(f"the server has cancelled the event stream: {text}")
        case grpc.StatusCode.NOT_FOUND:
            return UnknownStream(text, name=stream)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in text:
            return MessageTooLarge(
                f"a message of the event stream exceeds the size limit ({text}): raise the channel option"
                " grpc.max_receive_message_length, for example with channel_options(max_message=...), and the server"
                " option grpc.max_send_message_length if it is set"
            )
        case _:
            return RemoteError(text, code=code.name)


def _find_reflex_code(error: grpc.aio.AioRpcError) -> _ReflexCode | None:
    """Return luno/reflex's code of an error, from the status details or from the text."""
    for code in _jettison_codes(error):
        if code in _ReflexCode.__members__.values():
            return _ReflexCode(code)
    text = error.details() or ""
    return next((code for go_text, code in _GO_TEXTS.items() if go_text in text), None)


def _jettison_codes(error: grpc.aio.AioRpcError) -> Iterator[str]:
    """Return the codes in the status details: that of the error, and those of the errors it wraps."""
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
            # Unreadable details are ignored: the status code and the message remain.
            continue
        while pending:
            wrapped = pending.pop()
            yield wrapped.code
            pending.extend(wrapped.joined_errors)
            if wrapped.HasField("wrapped_error"):
                pending.append(wrapped.wrapped_error)
