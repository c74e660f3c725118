"""A source that reads the stream of a remote service."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import anyio
import grpc
from google.protobuf.message import Message

from reflex_aio import pb
from reflex_aio.checks import check_instance, wrong_type
from reflex_aio.errors import ConnectionLost, ReflexError, RemoteError, StreamClosed, StreamStopped
from reflex_aio.event import Event
from reflex_aio.rpc import error_mapping, protocol
from reflex_aio.rpc.page_messages import decode_page
from reflex_aio.rpc.remote_service import RemoteService, service_of_channel, service_of_stub
from reflex_aio.rpc.streaming_call import Receiver
from reflex_aio.stream import EventStream, StreamOptions
from reflex_aio.tasks import Tasks, is_cancelling

__all__ = ["RemoteSource"]

Pairs = Iterable[tuple[str, str | bytes]]

# The time in seconds for which a stream from or to the head waits for a server that doesn't send the head's cursor.
_HEAD_TIMEOUT = 1.0


class RemoteSource:
    """The stream of a remote service, Python or Go, as a source.

    ::

        async with grpc.aio.secure_channel(target, credentials, channel_options()) as channel:
            await run(Spec(RemoteSource(channel, "users"), cursors.store(pool), consumer))

    Events arrive in pages, or one by one from servers without pages. The ``lag`` of :meth:`stream` is applied by the
    server.

    A Go server doesn't report the cursor of its head. With ``from_head`` a stream from such a server is open once the
    server has started to respond, or after one second, and the server determines the head in that time. If the call is
    lost before its first event, the next call starts after the head at that later time. Until the first event,
    ``cursor`` is the one that was passed.

    :param channel: the channel to the service; or a method of a stub, such as ``stub.StreamUsers``, together with
        ``request``. The caller closes the channel
    :param name: the name of the stream, for servers with several streams
    :param method: a method of your own with the messages of reflex.proto, such as ``/users.Users/StreamUsers``
    :param request: the class StreamRequest of the stub's messages
    :param metadata: metadata for every call, such as an authorization; or an async function that returns them, called
        for each call
    :param pages: request pages; only the service of this package has them, not a ``method`` of your own
    :raises TypeError: if ``channel`` is neither a channel nor a stub's method
    :raises ValueError: if a name can't be sent as metadata, or ``method`` is not a path
    """

    def __init__(
        self,
        channel: grpc.aio.Channel | grpc.aio.UnaryStreamMultiCallable[Any, Any],
        name: str | None = None,
        *,
        method: str = protocol.STREAM_METHOD,
        request: type[Message] | None = None,
        metadata: Pairs | Callable[[], Awaitable[Pairs]] = (),
        pages: bool = True,
    ) -> None:
        protocol.check_method(method)
        if isinstance(channel, grpc.aio.Channel):
            if request is not None:
                raise TypeError("request is accepted with a stub's method only, not with a channel")
            self._service = service_of_channel(channel, method, pages=pages)
        elif callable(channel) and request is not None:
            self._service = service_of_stub(channel, request)
        else:
            raise wrong_type(
                "channel",
                channel,
                "a grpc.aio.Channel, or a method of a stub that was created with one and request=, the class of its"
                " requests",
            )
        self._name = None if name is None else protocol.check_stream_name(name)
        self._metadata = metadata if callable(metadata) else tuple(metadata)

    def __repr__(self) -> str:
        return f"RemoteSource({self._service.name}, {self._name!r})"

    def stream(
        self, after: str = "", *, from_head: bool = False, to_head: bool = False, lag: float | None = None
    ) -> EventStream:
        """Return a stream of the events after the cursor ``after``. See :class:`~reflex_aio.stream.Source`.

        A read after a failure continues after the last event that was returned.

        :raises TypeError: if ``after`` is not a string, or another value has the wrong type
        :raises ValueError: if ``lag`` is out of its range
        """
        check_instance("after", after, str, "a cursor, which is a str")
        options = StreamOptions(from_head, to_head, lag)
        return _RemoteStream(self._service, self._name, self._request_metadata, after, options)

    async def head(self) -> str:
        """Return the cursor of the newest event, or ``""`` if there is none.

        :raises RemoteError: with code ``UNIMPLEMENTED`` if the server has no method for it: Go servers and methods of
            your own have none
        """
        no_head = f"{self._service.name}: the server has no method that returns the head"
        if self._service.head is None:
            raise RemoteError(no_head, code="UNIMPLEMENTED")
        try:
            return (await self._service.head(pb.HeadRequest(), metadata=await self._request_metadata())).id
        except grpc.aio.AioRpcError as exc:
            if error_mapping.is_unimplemented(exc):
                raise RemoteError(no_head, code="UNIMPLEMENTED") from exc
            raise error_mapping.error_for_status(exc, after="", stream=self._name) from exc
        except asyncio.CancelledError as exc:
            if is_cancelling():
                raise
            raise StreamStopped("the channel was closed") from exc

    async def _request_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        metadata = tuple(await self._metadata()) if callable(self._metadata) else self._metadata
        return metadata if self._name is None else (*metadata, (protocol.STREAM_KEY, self._name))


class _RemoteStream(EventStream):
    def __init__(
        self,
        service: RemoteService,
        name: str | None,
        metadata: Callable[[], Awaitable[Pairs]],
        after: str,
        options: StreamOptions,
    ) -> None:
        super().__init__(after)
        self._service = service
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
                raise self._to_error(exc) from exc
        return self._position

    async def _read(self) -> Sequence[Event] | None:
        if self._at_head:
            return ()
        try:
            await self._connect()
        except grpc.aio.AioRpcError as exc:
            if self._ends_at_head(exc):
                return ()
            raise self._to_error(exc) from exc
        return None

    def _take_fed(self) -> Sequence[Event] | None:
        assert self._receiver is not None
        try:
            events = self._receiver.take()
        except StreamClosed:
            # The call is still open: _close cancels it.
            raise
        except grpc.aio.AioRpcError as exc:
            self._disconnect()
            if self._ends_at_head(exc):
                return None
            raise self._to_error(exc) from exc
        except protocol.MalformedMessage as exc:
            self._disconnect()
            raise RemoteError(f"the server has sent a malformed message: {exc}", code="INTERNAL") from exc
        except Exception:
            self._disconnect()
            raise
        if events:
            self._continue_after(events[-1].id)
        return events

    def _ends_at_head(self, error: grpc.aio.AioRpcError) -> bool:
        self._at_head = self._options.to_head and error_mapping.is_head_reached(error)
        return self._at_head

    async def _close(self) -> None:
        self._disconnect()
        await self._tasks.aclose()

    async def _connect(self) -> None:
        """Start a call and let it feed this stream; a call for pages if the server may have them."""
        try:
            await self._start_call()
        except BaseException:
            self._disconnect()
            raise
        self._fed_by = self._receiver

    async def _start_call(self) -> None:
        service, metadata = self._service, await self._metadata()
        if service.stream_pages is not None and service.has_pages:
            request = protocol.encode_request(pb.StreamRequest, self._position, self._options)
            call = service.stream_pages(pb.StreamPagesRequest(request=request), metadata=metadata)
            self._receiver = Receiver(call, decode_page, self._tasks)
            try:
                self._continue_after(await self._receiver.wait_until_open())
                return
            except grpc.aio.AioRpcError as exc:
                if not error_mapping.is_unimplemented(exc):
                    raise
                service.remember_pages(False)
        call = service.stream(
            protocol.encode_request(service.request_class, self._position, self._options), metadata=metadata
        )
        self._receiver = Receiver(call, service.decode, self._tasks)
        if self._options.from_head or self._options.to_head:
            with anyio.move_on_after(_HEAD_TIMEOUT):
                self._continue_after(await self._receiver.wait_until_open())

    def _continue_after(self, cursor: str | None) -> None:
        """Make the next call start after ``cursor``, unless it is ``None``."""
        if cursor is not None:
            self._position = cursor
            if self._options.from_head:
                self._options = replace(self._options, from_head=False)

    def _disconnect(self) -> None:
        self._fed_by = None
        if self._receiver is not None:
            self._receiver.cancel_call()
            self._receiver = None

    def _to_error(self, error: grpc.aio.AioRpcError) -> ReflexError:
        mapped = error_mapping.error_for_status(error, after=self._position, stream=self._name)
        if isinstance(mapped, ConnectionLost):
            # The next connection may reach another server, or a newer version, which has pages.
            self._service.remember_pages(True)
        return mapped
