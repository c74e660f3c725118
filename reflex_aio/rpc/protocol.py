"""The wire protocol: names of methods and metadata, and conversion of events and requests to and from messages.

Pages of events are in :mod:`reflex_aio.rpc.page_messages`, errors in :mod:`reflex_aio.rpc.error_mapping`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from reflex_aio import pb
from reflex_aio.checks import wrong_type
from reflex_aio.event import TIMESTAMP_US_MAX, TIMESTAMP_US_MIN, Event
from reflex_aio.stream import StreamOptions

M = TypeVar("M", bound=Message)

STREAM_SERVICE = "reflexpb.Reflex"
PAGES_SERVICE = "reflexaio.v1.ReflexPages"

STREAM_METHOD = f"/{STREAM_SERVICE}/Stream"
PAGES_METHOD = f"/{PAGES_SERVICE}/StreamPages"
HEAD_METHOD = f"/{PAGES_SERVICE}/Head"

STREAM_KEY = "reflex-stream"
"""Request metadata: the name of the requested stream."""

CURSOR_KEY = "reflex-cursor-bin"
"""Initial metadata of the response: the cursor that the stream starts after, in UTF-8, with the head resolved."""


IDS_KEY = "reflex-ids"
"""Initial metadata of the response: ``integer`` or ``opaque``, see ``EventStream.opaque_ids``."""

HEARTBEAT_KEY = "reflex-heartbeat-ms"
"""Initial metadata of a response with pages: the interval in which the server sends at least an empty page."""


class MalformedMessage(ValueError):
    """Raised when a message violates the protocol."""


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """The initial metadata of a response.

    :param cursor: the cursor that the stream starts after; ``None`` if this is not a server of this package
    :param opaque_ids: see ``EventStream.opaque_ids``; ``None`` if the server does not say so
    :param heartbeat: the interval between the server's heartbeats, in seconds; ``None`` without heartbeats
    """

    cursor: str | None = None
    opaque_ids: bool | None = None
    heartbeat: float | None = None

    @classmethod
    def of(cls, metadata: Iterable[tuple[str, str | bytes]] | None) -> Self:
        """Return what ``metadata`` says.

        :raises MalformedMessage: if a value has not the format of the protocol
        """
        metadata = tuple(metadata or ())
        cursor, ids = metadata_value(CURSOR_KEY, metadata), metadata_value(IDS_KEY, metadata)
        heartbeat = metadata_value(HEARTBEAT_KEY, metadata)
        if cursor is not None and not isinstance(cursor, bytes):
            raise MalformedMessage(f"the metadata {CURSOR_KEY} are no bytes")
        try:
            return cls(
                None if cursor is None else cursor.decode(),
                None if ids is None else ids == "opaque",
                None if heartbeat is None else _parse_milliseconds(heartbeat),
            )
        except ValueError as exc:
            raise MalformedMessage(f"invalid initial metadata: {exc}") from exc

    def pairs(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the metadata as they are sent."""
        assert self.cursor is not None
        pairs: list[tuple[str, str | bytes]] = [
            (CURSOR_KEY, self.cursor.encode()),
            (IDS_KEY, "opaque" if self.opaque_ids else "integer"),
        ]
        if self.heartbeat is not None:
            pairs.append((HEARTBEAT_KEY, str(round(self.heartbeat * 1000))))
        return tuple(pairs)


def _parse_milliseconds(value: str | bytes) -> float:
    milliseconds = int(value)
    if not 1 <= milliseconds <= 3_600_000:
        raise ValueError(f"an interval of {milliseconds} ms")
    return milliseconds / 1000


def parse(message_class: type[M], data: bytes | None) -> M:
    """Return a serialized message.

    :param data: ``None`` if grpc could not deserialize it
    :raises MalformedMessage: if ``data`` is not such a message
    """
    if data is None:
        raise MalformedMessage("a message could not be decoded")
    try:
        return message_class.FromString(data)
    except DecodeError as exc:
        raise MalformedMessage(str(exc)) from exc


def metadata_value(key: str, metadata: Iterable[tuple[str, str | bytes]] | None) -> str | bytes | None:
    """Return the first value of ``key`` in metadata, or ``None``."""
    # Iterating over pairs works with grpc.aio.Metadata in every version of grpc; dict() does not.
    return next((value for name, value in metadata or () if name == key), None)


def check_stream_name(name: str) -> str:
    """Return ``name``, a stream name that can be sent as metadata.

    :raises TypeError: if it is not a string
    :raises ValueError: if it is empty, contains anything but printable ASCII, or starts or ends with a space
    """
    if not isinstance(name, str):
        raise wrong_type("stream name", name, "a str")
    if not name or not name.isascii() or not name.isprintable() or name != name.strip():
        raise ValueError(f"stream name {name!r}: accepted is printable ASCII without spaces around it")
    return name


def check_method(method: str) -> str:
    """Return ``method``, the path of a gRPC method, such as ``/package.Service/Method``.

    :raises ValueError: if it is not such a path
    """
    match method.split("/") if isinstance(method, str) else ():
        case ["", service, name] if service and name:
            return method
    raise ValueError(f"method {method!r}: accepted is a path such as {STREAM_METHOD!r}")


def event_to_message(event: Event, message_class: Callable[..., M]) -> M:
    """Return ``event`` as a message of an Event class. Missing metadata and a missing trace become empty bytes."""
    seconds, microseconds = divmod(event.timestamp_us, 1_000_000)
    fields: dict[str, Any] = {"timestamp": {"seconds": seconds, "nanos": microseconds * 1000}}
    # A class generated from an older reflex.proto lacks these fields: name them only if they are set.
    if event.metadata:
        fields["metadata"] = event.metadata
    if event.trace:
        fields["trace"] = event.trace
    return message_class(id=event.id, type=event.type, foreign_id=event.foreign_id, **fields)


def event_from_message(message: Any) -> Event:
    """Return the event in a message of an Event class. Empty metadata and an empty trace become ``None``.

    :raises MalformedMessage: if the event's time is before the year 1 or after the year 9999
    """
    timestamp = message.timestamp
    microseconds = timestamp.seconds * 1_000_000 + timestamp.nanos // 1000
    if not TIMESTAMP_US_MIN <= microseconds <= TIMESTAMP_US_MAX:
        raise MalformedMessage(f"the time of event {message.id!r} is out of range")
    return Event(
        message.id,
        message.type,
        message.foreign_id,
        microseconds,
        message.metadata or None,
        getattr(message, "trace", None) or None,
    )


def event_from_bytes(data: bytes) -> Event:
    """Return the event in a serialized message.

    :raises MalformedMessage: if ``data`` is not an Event message
    """
    return event_from_message(parse(pb.Event, data))


def event_class_for(request: Message) -> type[Message]:
    """Return the class of the message Event in the .proto file that defines the class of ``request``.

    :raises TypeError: if the file defines no such message
    """
    file = request.DESCRIPTOR.file
    event: Any = file.message_types_by_name.get("Event")
    if event is None:
        raise TypeError(
            f"{request.DESCRIPTOR.full_name} is no request for a stream: {file.name} has no message Event"
        )
    message_class: type[Message] = GetMessageClass(event)
    return message_class


def encode_request(request_class: Callable[..., M], after: str, options: StreamOptions) -> M:
    """Return a request for a stream, as a message of a StreamRequest class.

    :raises ValueError: if the class was generated from a reflex.proto that lacks one of the options
    """
    # Options that are off are omitted: a class generated from an older reflex.proto may lack them.
    fields: dict[str, Any] = {}
    if options.from_head:
        fields["fromHead"] = True
    if options.to_head:
        fields["toHead"] = True
    if options.lag:
        seconds, nanos = divmod(round(options.lag * 1_000_000_000), 1_000_000_000)
        fields["lag"] = {"seconds": seconds, "nanos": nanos}
    return request_class(after=after, options=fields)


def decode_request(request: Any) -> tuple[str, StreamOptions]:
    """Return the cursor and the options in a message of a StreamRequest class.

    :raises MalformedMessage: if the lag is out of range
    """
    options = request.options
    lag = options.lag.seconds + options.lag.nanos / 1_000_000_000
    try:
        return request.after, StreamOptions(options.fromHead, getattr(options, "toHead", False), lag or None)
    except ValueError as exc:
        raise MalformedMessage(str(exc)) from exc
