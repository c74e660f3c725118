"""A source that is the stream of another service."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import anyio
import grpc
from google.protobuf.message import Message

from reflex_aio import pb
from reflex_aio.errors import ConnectionLost, ReflexError, RemoteError, StreamClosed, StreamStopped
from reflex_aio.event import Event
from reflex_aio.rpc import convert, names, status
from reflex_aio.rpc.pages import events_from_page
from reflex_aio.rpc.receiver import Receiver
from reflex_aio.rpc.remote import Remote, remote_of_channel, remote_of_stub
from reflex_aio.stream import EventStream, StreamOptions
from reflex_aio.tasks import Tasks, is_cancelling

__all__ = ["RemoteSource"]

Pairs = Iterable[tuple[str, str | bytes]]

# How long a stream from or to the head waits for a server that doesn't tell where the head is, in seconds.
_WAIT_FOR_HEAD = 1.0


class RemoteSource:
    """The stream of a remote service, Python or Go, as a source like any other.

    ::

        async with grpc.aio.secure_channel(target, credentials, channel_options()) as channel:
            await run(Spec(RemoteSource(channel, "users"), cursors.store(pool), consumer))

    Events come in pages, and one by one from servers that have no pages. The ``lag`` of :meth:`stream` is
    kept by the server.

    A Go server does not tell where its head is. With ``from_head`` such a stream is open once the server has
    begun to answer, or a second has passed; the server resolves the head meanwhile. Should the call be lost
    before its first event, the next one starts after the head of then. Until there is an event, ``cursor`` is
    the one given.

    :param channel: the channel to the service; or a method of a stub, such as ``stub.StreamUsers``, together
        with ``request``. The channel stays the caller's to close
    :param name: the name of the stream, for servers that have several
    :param method: a method of your own with the messages of reflex.proto, such as
        ``/users.Users/StreamUsers``
    :param request: the class StreamRequest of the stub's messages
    :param metadata: metadata for every call, such as an authorization; or an async function that returns
        them, called for each call
    :param pages: ask for pages; only ever asked of the service of this package, not of a ``method`` of your
        own
    :raises TypeError: if ``channel`` is neither
    :raises ValueError: if a name can't travel as metadata, or ``method`` is no path
    """

    def __init__(
        self,
        channel: grpc.aio.Channel | grpc.aio.UnaryStreamMultiCallable[Any, Any],
        name: str | None = None,
        *,
        method: str = names.STREAM_METHOD,
        request: type[Message] | None = None,
        metadata: Pairs | Callable[[], Awaitable[Pairs]] = (),
        pages: bool = True,
    ) -> None:
        names.check_method(method)
        if isinstance(channel, grpc.aio.Channel):
            if request is not None:
                raise TypeError("request is for a stub's method: a channel goes without")
            self._remote = remote_of_channel(channel, method, pages=pages)
        elif callable(channel) and request is not None:
            self._remote = remote_of_stub(channel, request)
        else:
            raise TypeError(
                f"channel {channel!r} is a {type(channel).__name__}: accepted is a grpc.aio.Channel, or a"
                " method of a stub made with one and request=, the class of its requests"
            )
        self._name = None if name is None else names.check_stream_name(name)
        self._metadata = metadata if callable(metadata) else tuple(metadata)

    def __repr__(self) -> str:
        return f"RemoteSource({self._remote.name}, {self._name!r})"

    def stream(
        self, after: str = "", *, from_head: bool = False, to_head: bool = False, lag: float | None = None
    ) -> EventStream:
        """Return a stream of the events after the cursor ``after``. See :class:`~reflex_aio.stream.Source`.

        A stream that has failed, and is read again, goes on after the last event that it returned.

        :raises TypeError: if ``after`` is no string, or another value has the wrong type
        :raises ValueError: if ``lag`` is out of its range
        """
        if not isinstance(after, str):
            raise TypeError(
                f"after {after!r} is a {type(after).__name__}: accepted is a cursor, which is a str"
            )
        options = StreamOptions(from_head, to_head, lag)
        return _RemoteStream(self._remote, self._name, self._pairs, after, options)

    async def head(self) -> str:
        """Return the cursor of the newest event, or ``""`` if there is none.

        :raises RemoteError: with code ``UNIMPLEMENTED`` if the server can't tell, as Go servers can't, nor
            methods of your own
        """
        no_head = f"{self._remote.name}: the server has no method that tells the head"
        if self._remote.head is None:
            raise RemoteError(no_head, code="UNIMPLEMENTED")
        try:
            return (await self._remote.head(pb.HeadRequest(), metadata=await self._pairs())).id
        except grpc.aio.AioRpcError as exc:
            if status.is_unimplemented(exc):
                raise RemoteError(no_head, code="UNIMPLEMENTED") from exc
            raise status.error_of(exc, after="", stream=self._name) from exc
        except asyncio.CancelledError as exc:
            if is_cancelling():
                raise
            raise StreamStopped("the channel was closed") from exc

    async def _pairs(self) -> tuple[tuple[str, str | bytes], ...]:
        pairs = tuple(await self._metadata()) if callable(self._metadata) else self._metadata
        return pairs if self._name is None else (*pairs, (names.STREAM_KEY, self._name))


class _RemoteStream(EventStream):
    def __init__(
        self,
        remote: Remote,
        name: str | None,
        metadata: Callable[[], Awaitable[Pairs]],
        after: str,
        options: StreamOptions,
    ) -> None:
        super().__init__(after)
        self._remote = remote
        self._name = name
        self._metadata = metadata
        self._position = after
        self._options = options
        self._tasks = Tasks()
        self._receiver: Receiver | None = None
        self._at_head = False

    async def _open(self) -> str:
        try:
            await self._connect()
        except grpc.aio.AioRpcError as exc:
            if not self._ends_at_head(exc):
                raise self._failure(exc) from exc
        return self._position

    async def _read(self) -> Sequence[Event] | None:
        if self._at_head:
            return ()
        try:
            await self._connect()
        except grpc.aio.AioRpcError as exc:
            if self._ends_at_head(exc):
                return ()
            raise self._failure(exc) from exc
        return None

    def _take_fed(self) -> Sequence[Event] | None:
        assert self._receiver is not None
        try:
            events = self._receiver.take()
        except StreamClosed:
            # Still to be hung up.
            raise
        except grpc.aio.AioRpcError as exc:
            self._disconnect()
            if self._ends_at_head(exc):
                return None
            raise self._failure(exc) from exc
        except convert.MalformedMessage as exc:
            self._disconnect()
            raise RemoteError(f"the server has sent what is no event: {exc}", code="INTERNAL") from exc
        except Exception:
            self._disconnect()
            raise
        if events:
            self._start_after(events[-1].id)
        return events

    def _ends_at_head(self, error: grpc.aio.AioRpcError) -> bool:
        self._at_head = self._options.to_head and status.is_head_reached(error)
        return self._at_head

    async def _close(self) -> None:
        self._disconnect()
        await self._tasks.aclose()

    async def _connect(self) -> None:
        """Begin a call, for pages if the server has any."""
        try:
            await self._call()
        except BaseException:
            self._disconnect()
            raise
        self._fed_by = self._receiver

    async def _call(self) -> None:
        remote, metadata = self._remote, await self._metadata()
        if remote.stream_pages is not None and remote.has_pages:
            request = convert.make_request(pb.StreamRequest, self._position, self._options)
            call = remote.stream_pages(pb.StreamPagesRequest(request=request), metadata=metadata)
            self._receiver = Receiver(call, events_from_page, self._tasks)
            try:
                self._start_after(await self._receiver.opened())
                return
            except grpc.aio.AioRpcError as exc:
                if not status.is_unimplemented(exc):
                    raise
                remote.remember_pages(False)
        call = remote.stream(
            convert.make_request(remote.request_class, self._position, self._options), metadata=metadata
        )
        self._receiver = Receiver(call, remote.decode, self._tasks)
        if self._options.from_head or self._options.to_head:
            with anyio.move_on_after(_WAIT_FOR_HEAD):
                self._start_after(await self._receiver.opened())

    def _start_after(self, cursor: str | None) -> None:
        """Let the next call start after ``cursor``, if that is known."""
        if cursor is not None:
            self._position = cursor
            if self._options.from_head:
                self._options = replace(self._options, from_head=False)

    def _disconnect(self) -> None:
        self._fed_by = None
        if self._receiver is not None:
            self._receiver.hang_up()
            self._receiver = None

    def _failure(self, error: grpc.aio.AioRpcError) -> ReflexError:
        failure = status.error_of(error, after=self._position, stream=self._name)
        if isinstance(failure, ConnectionLost):
            # The next connection may lead to another server, or a newer one.
            self._remote.remember_pages(True)
        return failure
