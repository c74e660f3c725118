"""A remote service as its clients see it: the methods that it has."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from weakref import WeakSet

import grpc
from google.protobuf.message import Message

from reflex_aio import pb
from reflex_aio.event import Event
from reflex_aio.rpc import convert, names

Call: TypeAlias = grpc.aio.UnaryStreamCall[Any, Any]

# Channels whose servers were seen to have no pages.
_without_pages: WeakSet[grpc.aio.Channel] = WeakSet()


@dataclass(frozen=True, slots=True)
class Remote:
    """The methods of a remote service.

    :param name: what it is called in messages
    :param stream: the method that streams single events, called with a request and ``metadata=``
    :param request_class: the class of its requests
    :param decode: returns the events in one of its messages
    :param stream_pages: the method that streams pages, if it may have one
    :param head: the method that tells the head, if it may have one
    :param channel: the channel that leads there, if it may have pages
    """

    name: str
    stream: Callable[..., Call]
    request_class: Callable[..., Message]
    decode: Callable[[Any], Iterable[Event]]
    stream_pages: Callable[..., Call] | None = None
    head: Callable[..., Awaitable[pb.HeadResponse]] | None = None
    channel: grpc.aio.Channel | None = None

    @property
    def has_pages(self) -> bool:
        """Whether it is worthwhile to ask for pages."""
        return self.stream_pages is not None and self.channel not in _without_pages

    def remember_pages(self, there: bool) -> None:
        """Remember, for all who use the channel, whether it is worthwhile to ask for pages."""
        if self.channel is not None:
            (_without_pages.discard if there else _without_pages.add)(self.channel)


def remote_of_channel(channel: grpc.aio.Channel, method: str, *, pages: bool) -> Remote:
    """Return the service that ``channel`` leads to. ``method`` streams its single events."""
    # Responses stay serialized until they are read, as that is how their size is known.
    remote = Remote(
        name=method,
        stream=channel.unary_stream(method, request_serializer=pb.StreamRequest.SerializeToString),
        request_class=pb.StreamRequest,
        decode=_decode_serialized,
    )
    if method != names.STREAM_METHOD:
        # Pages would come from this package's service on the same server, which may stream something else.
        return remote
    return replace(
        remote,
        head=channel.unary_unary(
            names.HEAD_METHOD,
            request_serializer=pb.HeadRequest.SerializeToString,
            response_deserializer=pb.HeadResponse.FromString,
        ),
        stream_pages=channel.unary_stream(
            names.PAGES_METHOD, request_serializer=pb.StreamPagesRequest.SerializeToString
        )
        if pages
        else None,
        channel=channel,
    )


def remote_of_stub(method: Callable[..., Call], request_class: Callable[..., Message]) -> Remote:
    """Return the service of a stub's method, whose messages may be of any build of reflex.proto."""
    return Remote(name=repr(method), stream=method, request_class=request_class, decode=_decode_message)


def _decode_serialized(message: bytes) -> tuple[Event]:
    return (convert.event_from_bytes(message),)


def _decode_message(message: Any) -> tuple[Event]:
    return (convert.event_from_message(message),)
