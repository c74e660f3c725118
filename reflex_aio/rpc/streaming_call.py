"""The two ends of one streaming call, with read-ahead and heartbeats; and the methods of a remote service."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeAlias
from weakref import WeakSet

import grpc
from google.protobuf.message import Message

from reflex_aio import pb
from reflex_aio.errors import ConnectionLost, StreamClosed, StreamStopped
from reflex_aio.event import Event
from reflex_aio.rpc.protocol import (
    HEAD_METHOD,
    PAGES_METHOD,
    STREAM_METHOD,
    MalformedMessage,
    ServerMetadata,
    event_from_bytes,
    event_from_message,
)
from reflex_aio.tasks import Tasks, is_cancelling

__all__ = [
    "HEARTBEAT",
    "PeerWatch",
    "Receiver",
    "RemoteService",
    "Sender",
    "beat",
    "service_of_channel",
    "service_of_stub",
]

# The interval between heartbeats of an idle stream of pages, in seconds, in both directions.
HEARTBEAT = 10.0

# The number of intervals without a message after which a peer is lost.
_MISSED = 3

# The size in bytes of buffered messages at which reading from the network pauses. HTTP/2 buffers as much again.
_READ_AHEAD = 256 * 1024

# What a buffered message takes in addition to its content, in bytes.
_OVERHEAD = 100

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


class PeerWatch:
    """Detects a peer that sends nothing: its event loop is blocked, or the connection was lost silently."""

    def __init__(self) -> None:
        self._heard = True
        self.paused: bool = False
        """True while nothing is read, so that silence means nothing."""

    def hear(self) -> None:
        """Note that a message has arrived."""
        self._heard = True

    async def wait_for_silence(self, interval: float) -> None:
        """Return when no message has arrived for three intervals.

        Intervals are counted, not measured: if the event loop of this process was blocked, messages that have arrived
        meanwhile are read first.

        :param interval: the interval in which the peer sends messages, in seconds
        """
        silent = 0
        while silent < _MISSED:
            self._heard = False
            await asyncio.sleep(interval)
            silent = 0 if self._heard or self.paused else silent + 1


async def beat(send: Callable[[], Awaitable[None]], interval: float) -> None:
    """Send heartbeats until the call ends.

    :param interval: the interval between them, in seconds
    """
    clock = asyncio.get_running_loop().time
    # After the end of the call, grpc raises an InvalidStateError, or the status of the call.
    with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError, grpc.aio.BaseError):
        while True:
            began = clock()
            await asyncio.sleep(interval)
            if clock() - began > 2 * interval:
                # The event loop was blocked, and the peer may have ended the call meanwhile. Read that first: a message
                # that is sent to an ended call replaces its status.
                await asyncio.sleep(interval / 10)
            await send()


class Receiver:
    """Reads the messages of a call ahead of their consumer, by a bounded amount. Implements ``Feed``.

    It reads in a task of its own, so that a cancelled read of the stream leaves the call open: grpc would cancel the
    call together with the read.

    :param call: a call, as returned by the methods of a :class:`grpc.aio.Channel`
    :param decode: returns the events in some messages
    :param tasks: the tasks of the owner, which closes them after :meth:`cancel_call`
    :param request: the first message of a call that can have several
    :param at_most: the number of messages that are decoded at a time; ``None`` for all that have arrived
    """

    def __init__(
        self,
        call: Any,
        decode: Callable[[Sequence[Any]], Sequence[Event]],
        tasks: Tasks,
        *,
        request: bytes | None = None,
        at_most: int | None = None,
    ) -> None:
        self._call = call
        self._decode = decode
        self._tasks = tasks
        self._request = request
        self._at_most = at_most
        self._messages: deque[Any] = deque()
        self._size = 0
        self._end: Exception | None = None
        self._lost = False
        self._opened = asyncio.Event()
        self._taken = asyncio.Event()
        self._arrival: asyncio.Future[None] | None = None
        self._cancelled = False
        self._watch = PeerWatch()
        self._heartbeats: list[asyncio.Task[None]] = []
        self.metadata: ServerMetadata = ServerMetadata()
        """The initial metadata of the response. They arrive before the first message."""
        tasks.start(self._receive(), name="reflex_aio remote stream")

    async def wait_until_open(self) -> None:
        """Wait for the server's first response.

        :raises grpc.aio.AioRpcError: if the call failed instead
        :raises MalformedMessage: if the initial metadata violate the protocol
        :raises StreamStopped: if the channel was closed
        """
        await self._opened.wait()
        if self.metadata.cursor is None and not self._messages and self._end is not None:
            raise self._end

    def take(self) -> Sequence[Event]:
        """Return buffered events, if there are any.

        :raises grpc.aio.AioRpcError: if the call has ended and all its events have been returned
        :raises ConnectionLost: if the server no longer sends anything, likewise
        :raises MalformedMessage: if a message violates the protocol
        :raises StreamStopped: if the channel was closed, or the server ended the call without a status
        :raises StreamClosed: after :meth:`cancel`
        """
        if self._cancelled:
            raise StreamClosed
        messages = self._messages
        if not messages:
            if self._end is not None:
                raise self._end
            return ()
        count = len(messages) if self._at_most is None else min(self._at_most, len(messages))
        taken = [messages.popleft() for _ in range(count)]
        self._size -= sum(map(_size_of, taken))
        self._taken.set()
        return self._decode(taken)

    def arrival(self) -> Awaitable[None] | None:
        """Return an awaitable for the next arrival, or ``None`` if :meth:`take` can be called now."""
        if self._messages or self._end is not None or self._cancelled:
            return None
        self._arrival = asyncio.get_running_loop().create_future()
        return self._arrival

    def cancel(self) -> None:
        """End the pending read, and every later one, with StreamClosed. The call stays open."""
        self._cancelled = True
        self._wake()

    def cancel_call(self) -> None:
        """Cancel the call, which also ends the reading task."""
        self._call.cancel()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def _receive(self) -> None:
        try:
            self._end = await self._receive_all()
        except asyncio.CancelledError:
            # grpc also raises it, without a request for cancellation, when the call is cancelled, or the channel is
            # closed, during a read.
            self._end = StreamStopped("the channel of the event stream was closed")
            if self._lost:
                self._end = ConnectionLost("the server has sent nothing for three heartbeats")
            if is_cancelling():
                raise
        except Exception as exc:
            self._end = exc
        finally:
            for heartbeat in self._heartbeats:
                heartbeat.cancel()
            self._opened.set()
            self._wake()

    async def _receive_all(self) -> Exception:
        """Buffer the messages of the call, and return the error that ends it."""
        if self._request is not None:
            # A call that has failed by now reports its status when it is read.
            with suppress(asyncio.InvalidStateError):
                await self._call.write(self._request)
        self.metadata = ServerMetadata.of(await self._call.initial_metadata())
        if self.metadata.cursor is not None:
            self._opened.set()
        if self._request is not None:
            await self._start_heartbeats()
        while True:
            message: Any = await self._call.read()
            if message is grpc.aio.EOF:
                return StreamStopped("the server has ended the event stream without a reason")
            if message is None:
                return MalformedMessage("a message could not be decoded")
            self._watch.hear()
            self._messages.append(message)
            self._size += _size_of(message)
            self._opened.set()
            self._wake()
            while self._size >= _READ_AHEAD:
                self._watch.paused = True
                self._taken.clear()
                await self._taken.wait()
            self._watch.paused = False

    async def _start_heartbeats(self) -> None:
        if self.metadata.heartbeat is None:
            # A server without heartbeats waits for no further message.
            await self._call.done_writing()
            return
        self._heartbeats = [
            self._tasks.start(
                self._cancel_when_silent(self.metadata.heartbeat), name="reflex_aio server watch"
            ),
            self._tasks.start(beat(self._beat, HEARTBEAT), name="reflex_aio heartbeat"),
        ]

    async def _beat(self) -> None:
        await self._call.write(b"")

    async def _cancel_when_silent(self, interval: float) -> None:
        await self._watch.wait_for_silence(interval)
        self._lost = True
        self._call.cancel()


def _size_of(message: Any) -> int:
    # Empty messages count too: otherwise a peer could send any number of them.
    return _OVERHEAD + (len(message) if isinstance(message, bytes) else message.ByteSize())


class Sender:
    """Writes the messages of a call, one in the background while the caller prepares the next.

    On exit it waits until the last message has been written, also after an error: the call must not end before.
    """

    def __init__(self, context: grpc.aio.ServicerContext[Any, bytes]) -> None:
        self._context = context
        self._tasks = Tasks()
        self._writing: asyncio.Task[None] | None = None
        self._ending = False

    async def send(self, message: bytes) -> None:
        """Start to write ``message``, once the previous one has been written.

        :raises grpc.aio.BaseError: if the call has ended
        """
        await self._flush()
        self._start(message)

    async def beat(self) -> None:
        """Start to write an empty message, unless another one is being written."""
        if not self._ending and (self._writing is None or self._writing.done()):
            self._start(b"")

    def _start(self, message: bytes) -> None:
        # A task: a bare coroutine would not run before it is awaited.
        self._writing = self._tasks.start(self._write(message), name="reflex_aio served page", awaited=True)

    async def _write(self, message: bytes) -> None:
        await self._context.write(message)

    async def _flush(self) -> None:
        # A loop, because a heartbeat may be started meanwhile.
        while (writing := self._writing) is not None:
            await writing
            if self._writing is writing:
                self._writing = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending = True
        try:
            if exc is None or isinstance(exc, Exception):
                await self._flush()
        finally:
            await self._tasks.aclose()
