"""Between the objects of this package and the messages of the wire."""

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from reflex_aio import pb
from reflex_aio.event import Event
from reflex_aio.stream import StreamOptions

M = TypeVar("M", bound=Message)


class MalformedMessage(ValueError):
    """Raised for a message that is not what the protocol says."""


def event_to_message(event: Event, message_class: Callable[..., M]) -> M:
    """Return ``event`` as a message of an Event class. Without metadata or trace, these are empty there."""
    seconds, microseconds = divmod(event.timestamp_us, 1_000_000)
    fields: dict[str, Any] = {"timestamp": {"seconds": seconds, "nanos": microseconds * 1000}}
    # A build of an older reflex.proto has no such field, so name it only when it is needed.
    if event.metadata:
        fields["metadata"] = event.metadata
    if event.trace:
        fields["trace"] = event.trace
    return message_class(id=event.id, type=event.type, foreign_id=event.foreign_id, **fields)


def event_from_message(message: Any) -> Event:
    """Return the event that a message of an Event class holds. Empty metadata and trace become ``None``."""
    timestamp = message.timestamp
    return Event(
        message.id,
        message.type,
        message.foreign_id,
        timestamp.seconds * 1_000_000 + timestamp.nanos // 1000,
        message.metadata or None,
        getattr(message, "trace", None) or None,
    )


def event_from_bytes(data: bytes) -> Event:
    """Return the event in a serialized message.

    :raises MalformedMessage: if it is none
    """
    try:
        return event_from_message(pb.Event.FromString(data))
    except DecodeError as exc:
        raise MalformedMessage(str(exc)) from exc


def event_class_beside(request: Message) -> type[Message]:
    """Return the class of the message Event in the .proto file that defines the request's class.

    :raises TypeError: if there is none
    """
    file = request.DESCRIPTOR.file
    event: Any = file.message_types_by_name.get("Event")
    if event is None:
        raise TypeError(
            f"{request.DESCRIPTOR.full_name} is no request for a stream: {file.name} has no message Event"
        )
    message_class: type[Message] = GetMessageClass(event)
    return message_class


def make_request(request_class: Callable[..., M], after: str, options: StreamOptions) -> M:
    """Return a request for a stream, of a StreamRequest class.

    :raises ValueError: if the class stems from a reflex.proto too old for an option
    """
    # What is off is left out, as a build of an older reflex.proto may not know of it.
    fields: dict[str, Any] = {}
    if options.from_head:
        fields["fromHead"] = True
    if options.to_head:
        fields["toHead"] = True
    if options.lag:
        seconds, nanos = divmod(round(options.lag * 1_000_000_000), 1_000_000_000)
        fields["lag"] = {"seconds": seconds, "nanos": nanos}
    return request_class(after=after, options=fields)


def read_request(request: Any) -> tuple[str, StreamOptions]:
    """Return the cursor and the options in a message of a StreamRequest class.

    :raises MalformedMessage: if the lag is negative
    """
    options = request.options
    lag = options.lag.seconds + options.lag.nanos / 1_000_000_000
    if lag < 0:
        raise MalformedMessage(f"lag {lag} is out of range: accepted is a number of seconds from 0")
    return request.after, StreamOptions(options.fromHead, getattr(options, "toHead", False), lag or None)
