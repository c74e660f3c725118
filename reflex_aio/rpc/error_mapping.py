"""Mapping of errors to gRPC statuses on the server, and of gRPC statuses to errors on the client.

luno/reflex identifies errors by its own codes, sent as luno/jettison's message in the status details. Servers without
jettison's interceptor send the status UNKNOWN and only a text. Our servers send an exact status code and, in the
details, both jettison's message and one of their own, by which our clients raise the error as the server did. The
client understands all of these, and trusts none: what a peer wrote is shown in one line of printable text.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError, Message

from reflex_aio import pb
from reflex_aio.errors import (
    ConnectionLost,
    CursorAhead,
    EventNotFound,
    InvalidCursor,
    MessageTooLarge,
    MetadataError,
    ReflexError,
    RemoteError,
    SchemaError,
    StreamClosed,
    StreamStopped,
    TableNotFound,
    TableRefused,
    TableReplaced,
    UnknownStream,
)
from reflex_aio.rpc.protocol import MalformedMessage

_DETAILS_KEY = "grpc-status-details-bin"
_TYPE_PREFIX = "type.googleapis.com/"
_JETTISON_TYPE = f"{_TYPE_PREFIX}jettisonpb.WrappedError"
_OUR_TYPE = f"{_TYPE_PREFIX}reflexaio.v1.ErrorDetail"

# The most bytes of a message and of attributes that are sent. Headers are limited to 8 KiB; they contain the message
# three times, once with up to three bytes for each byte, twice in base64, and the attributes once, in base64.
_LONGEST_MESSAGE = 800
_LONGEST_ATTRIBUTES = 1200

# The most characters of a peer's text that are shown.
_LONGEST_TEXT = 1000


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

# The statuses with which servers and gateways refuse a method that they don't know.
_UNKNOWN_METHOD = (
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.NOT_FOUND,
)

# The errors that clients raise as themselves: the attributes that are sent, and how the error is made of them.
_ATTRIBUTES: dict[type[ReflexError], Callable[[Any], Sequence[str]]] = {
    CursorAhead: lambda error: (error.table, error.cursor, error.last),
    EventNotFound: lambda error: (error.source, error.event_id),
    InvalidCursor: lambda error: (error.accepted,),
    MetadataError: lambda error: (error.event_id,),
    SchemaError: lambda error: (error.table, *error.differences),
    TableNotFound: lambda error: (error.table,),
    TableRefused: lambda error: (error.table, error.reason, error.remedy),
    TableReplaced: lambda error: (error.table, error.what),
}
_MAKE: dict[str, Callable[..., ReflexError]] = {
    "CursorAhead": lambda after, table, cursor, last: CursorAhead(table=table, cursor=cursor, last=last),
    "EventNotFound": lambda after, source, event_id: EventNotFound(source=source, event_id=event_id),
    "InvalidCursor": InvalidCursor,
    "MetadataError": lambda after, event_id: MetadataError(event_id=event_id),
    "SchemaError": lambda after, table, *differences: SchemaError(table=table, differences=differences),
    "TableNotFound": lambda after, table: TableNotFound(table=table),
    "TableRefused": lambda after, table, reason, remedy: TableRefused(
        table=table, reason=reason, remedy=remedy
    ),
    "TableReplaced": lambda after, table, what: TableReplaced(table=table, what=what),
}


class TooManyCalls(Exception):
    """Raised by a server that serves as many calls as it may."""


class ClientLost(Exception):
    """Raised by a server whose client no longer sends heartbeats."""


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a call that has ended.

    :param reflex_code: luno/reflex's code of the error, if it has one
    :param detail: the error as our clients raise it, if they can
    """

    code: grpc.StatusCode
    message: str
    reflex_code: _ReflexCode | None = None
    detail: pb.ErrorDetail | None = None

    @classmethod
    def of(cls, code: grpc.StatusCode, error: Exception, reflex_code: _ReflexCode | None = None) -> Self:
        """Return a status with the message of ``error``, truncated to fit into HTTP/2 headers."""
        return cls(code, _cut(str(error), _LONGEST_MESSAGE), reflex_code, _detail_of(error))

    def trailer(self) -> tuple[tuple[str, bytes], ...]:
        """Return the trailing metadata by which clients identify the error."""
        details = []
        if self.reflex_code is not None:
            error = pb.WrappedError(message=self.message, code=self.reflex_code)
            details.append(pb.Any(type_url=_JETTISON_TYPE, value=error.SerializeToString()))
        if self.detail is not None:
            details.append(pb.Any(type_url=_OUR_TYPE, value=self.detail.SerializeToString()))
        if not details:
            return ()
        status = pb.Status(code=self.code.value[0], message=self.message, details=details)
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
        case MessageTooLarge() | TooManyCalls():
            return Status.of(grpc.StatusCode.RESOURCE_EXHAUSTED, error)
        case ConnectionLost():
            return SOURCE_LOST
        case ClientLost():
            return Status.of(grpc.StatusCode.UNAVAILABLE, error)
        case ReflexError() if isinstance(error, tuple(_ATTRIBUTES)):
            return Status.of(grpc.StatusCode.FAILED_PRECONDITION, error)
        case _:
            return None


def is_fault_of_source(error: Exception) -> bool:
    """Return whether ``error`` concerns the operator of the server, and not only the client."""
    return isinstance(error, (ConnectionLost, SchemaError, TableRefused, TableReplaced))


def is_unimplemented(error: grpc.aio.AioRpcError) -> bool:
    """Return whether the call failed because the server lacks the method."""
    return error.code() is grpc.StatusCode.UNIMPLEMENTED


def may_lack_method(error: grpc.aio.AioRpcError) -> bool:
    """Return whether the call may have failed because the server, or a gateway before it, lacks the method."""
    return error.code() in _UNKNOWN_METHOD or is_status_lost(error)


def is_status_lost(error: BaseException) -> bool:
    """Return whether grpc has replaced the status: it does so when a call ends while a message is sent."""
    return (
        isinstance(error, grpc.aio.AioRpcError)
        and error.code() is grpc.StatusCode.INTERNAL
        and error.details() == "Internal error from Core"
    )


def is_head_reached(error: grpc.aio.AioRpcError) -> bool:
    """Return whether the stream ended because it has reached the head."""
    return _find_reflex_code(error) is _ReflexCode.HEAD_REACHED


def to_reflex_error(error: Exception, *, after: str, stream: str | None) -> Exception:
    """Return the error that a failure of a call stands for; ``error`` itself if it is not a failure of the peer.

    Raise it ``from None``: the texts of a gRPC error are the peer's, and would be logged with the cause.

    :param after: the cursor of the request
    :param stream: the stream name of the request
    """
    match error:
        case grpc.aio.AioRpcError():
            return _error_for_status(error, after=after, stream=stream)
        case MalformedMessage():
            text = printable(str(error))
            return RemoteError(f"the server has sent a malformed message: {text}", code="INTERNAL")
        case grpc.aio.UsageError():
            return StreamStopped("the channel of the event stream was closed")
        case grpc.aio.BaseError():
            return ConnectionLost(f"the call failed in this process: {printable(str(error))}")
        case _:
            return error


def printable(text: str) -> str:
    """Return a peer's text as one line without control characters, shortened if it is long."""
    text = text[:_LONGEST_TEXT]
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _error_for_status(error: grpc.aio.AioRpcError, *, after: str, stream: str | None) -> ReflexError:
    code, text = error.code(), printable(error.details() or "no further information")
    if (sent := _find_error(error, after)) is not None:
        return sent
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


def _detail_of(error: Exception) -> pb.ErrorDetail | None:
    """Return ``error`` as a message, if clients can raise it as itself and it fits into the headers."""
    kind = next((each for each in type(error).__mro__ if each in _ATTRIBUTES), None)
    if kind is None:
        return None
    attributes = list(_ATTRIBUTES[kind](error))
    if sum(len(each.encode()) for each in attributes) > _LONGEST_ATTRIBUTES:
        return None
    return pb.ErrorDetail(type=kind.__name__, attributes=attributes)


def _find_error(error: grpc.aio.AioRpcError, after: str) -> ReflexError | None:
    """Return the error in the status details, if one of our servers sent it."""
    for detail in _unpack_details(error, _OUR_TYPE, pb.ErrorDetail):
        try:
            return _MAKE[detail.type](after, *map(printable, detail.attributes))
        except (KeyError, TypeError):
            # A type of another version, or not as many attributes as it has.
            return None
    return None


def _find_reflex_code(error: grpc.aio.AioRpcError) -> _ReflexCode | None:
    """Return luno/reflex's code of an error, from the status details or from the text."""
    for code in _jettison_codes(error):
        if code in _ReflexCode.__members__.values():
            return _ReflexCode(code)
    text = error.details() or ""
    return next((code for go_text, code in _GO_TEXTS.items() if go_text in text), None)


def _jettison_codes(error: grpc.aio.AioRpcError) -> Iterator[str]:
    """Return the codes in the status details: that of the error, and those of the errors it wraps."""
    pending = list(_unpack_details(error, _JETTISON_TYPE, pb.WrappedError))
    while pending:
        wrapped = pending.pop()
        yield wrapped.code
        pending.extend(wrapped.joined_errors)
        if wrapped.HasField("wrapped_error"):
            pending.append(wrapped.wrapped_error)


def _unpack_details(
    error: grpc.aio.AioRpcError, type_url: str, message_class: type[Message]
) -> Iterator[Any]:
    """Return the messages of one type in the status details. Unreadable details are ignored."""
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            status = pb.Status.FromString(value)
            yield from [
                message_class.FromString(detail.value)
                for detail in status.details
                if detail.type_url == type_url
            ]
        except DecodeError:
            # The status code and the message remain.
            continue


def _cut(text: str, most: int) -> str:
    """Return the beginning of ``text``, at most ``most`` bytes long in UTF-8."""
    return text.encode(errors="replace")[:most].decode(errors="ignore")
