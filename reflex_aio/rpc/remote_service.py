"""The methods of a remote service as a client calls them, with or without pages."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from weakref import WeakSet

import grpc
from google.protobuf.message import Message

from reflex_aio import pb
from reflex_aio.event import Event
from reflex_aio.rpc.protocol import (
    HEAD_METHOD,
    PAGES_METHOD,
    STREAM_METHOD,
    event_from_bytes,
    event_from_message,
)

__all__ = ["RemoteService", "service_of_channel", "service_of_stub"]

Call: TypeAlias = grpc.aio.UnaryStreamCall[Any, Any]
PagesCall: TypeAlias = grpc.aio.StreamStreamCall[bytes, bytes]

# Channels to servers that have responded with UNIMPLEMENTED to a request for pages.
_channels_without_pages: WeakSet[grpc.aio.Channel] = WeakSet()


@dataclass(frozen=True, slots=True)
class RemoteService:
    """The methods of a remote service. Responses that grpc can't deserialize are ``None``.

    :param name: the name of the service in messages
    :param stream: the method that streams single events, called with a request and ``metadata=``
    :param request_class: the class of its requests
    :param decode: returns the events in some of its messages
    :param stream_pages: the method that streams pages, if the service may have one
    :param head: the method that returns the head, if the service may have one
    :param channel: the channel to the service, if it may have pages
    """

    name: str
    stream: Callable[..., Call]
    request_class: Callable[..., Message]
    decode: Callable[[Sequence[Any]], Sequence[Event]]
    stream_pages: Callable[..., PagesCall] | None = None
    head: Callable[..., Awaitable[bytes]] | None = None
    channel: grpc.aio.Channel | None = None

    @property
    def has_pages(self) -> bool:
        """True if pages should be requested: the service may have them, and has not refused them before."""
        return self.stream_pages is not None and not self.lacks_pages

    @property
    def lacks_pages(self) -> bool:
        """True if the server has responded that it has no pages."""
        return self.channel in _channels_without_pages

    def remember_pages(self, available: bool) -> None:
        """Remember, for all users of the channel, whether to request pages."""
        if self.channel is not None:
            (_channels_without_pages.discard if available else _channels_without_pages.add)(self.channel)


def service_of_channel(channel: grpc.aio.Channel, method: str, *, pages: bool) -> RemoteService:
    """Return the service at the other end of ``channel``; ``method`` streams its single events."""
    # Responses stay serialized until they are consumed, so that their size is known, and errors are ours.
    service = RemoteService(
        name=method,
        stream=channel.unary_stream(method, request_serializer=pb.StreamRequest.SerializeToString),
        request_class=pb.StreamRequest,
        decode=_decode_serialized,
    )
    if method != STREAM_METHOD:
        # The pages service on the same server may stream something else than this method.
        return service
    return replace(
        service,
        head=channel.unary_unary(HEAD_METHOD, request_serializer=pb.HeadRequest.SerializeToString),
        stream_pages=channel.stream_stream(PAGES_METHOD) if pages else None,
        channel=channel,
    )


def service_of_stub(method: Callable[..., Call], request_class: Callable[..., Message]) -> RemoteService:
    """Return the service of a stub's method, whose messages may be generated from any reflex.proto."""
    return RemoteService(
        name=repr(method), stream=method, request_class=request_class, decode=_decode_messages
    )


def _decode_serialized(messages: Sequence[bytes]) -> list[Event]:
    return list(map(event_from_bytes, messages))


def _decode_messages(messages: Sequence[Any]) -> list[Event]:
    return list(map(event_from_message, messages))
