"""A source that reads the stream of a remote service."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import anyio
import grpc
from google.protobuf.message import Message

from reflex_aio import pb
from reflex_aio.checks import check_bool, check_instance, wrong_type
from reflex_aio.errors import ConnectionLost, RemoteError, StreamClosed, StreamStopped
from reflex_aio.event import Event, EventBatch
from reflex_aio.rpc import error_mapping, protocol, streaming_call
from reflex_aio.rpc.page_messages import IdCheck, decode_page
from reflex_aio.rpc.streaming_call import Receiver, RemoteService, service_of_channel, service_of_stub
from reflex_aio.stream import BEGINNING, EventStream, StreamOptions
from reflex_aio.tasks import Tasks, is_cancelling

__all__ = ["RemoteSource"]

T = TypeVar("T")

Pairs = Iterable[tuple[str, str | bytes]]

# The time in seconds within which a server must respond to the opening of a stream, or return its head.
_RESPONSE_TIMEOUT = 30.0

# The time in seconds for which a stream from or to the head waits for a server that doesn't send the head's cursor.
_HEAD_TIMEOUT = 1.0


class RemoteSource:
    """The stream of a remote service, Python or Go, as a source.

    ::

        async with grpc.aio.secure_channel(target, credentials, channel_options()) as channel:
            await run(Spec(RemoteSource(channel, "users"), cursors.store(pool), consumer))

    Events arrive in pages, or one by one from servers without pages. The ``lag`` of :meth:`stream` is applied by the
    server.

    What the server sends is checked before it is delivered. Ids must be integers that increase from the cursor on, or,
    if the server declares them opaque, neither be empty nor repeat; otherwise the stream raises RemoteError, and its
    cursor stays. A server is lost if it doesn't respond within 30 seconds, or sends neither events nor heartbeats for
    three heartbeats of 10 seconds. Servers without pages send no heartbeats: there, the channel's keepalive detects the
    loss.

    A Go server ignores ``name``, and sends the events of its only stream. So a name is refused unless the server shows
    that it is one of this package, or ``trust_server`` is set.

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
    :param trust_server: the server is known to serve the right stream, though it is not one of this package. A ``name``
        is then sent without a confirmation, and ids that are no integers are taken to be opaque
    :raises TypeError: if ``channel`` is neither a channel nor a stub's method, or another value has the wrong type
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
        trust_server: bool = False,
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
        self._trust_server = check_bool("trust_server", trust_server)

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
        return _RemoteStream(
            self._service,
            self._name,
            self._request_metadata,
            after,
            options,
            trust_server=self._trust_server,
        )

    async def head(self) -> str:
        """Return the cursor of the newest event, or ``""`` if there is none.

        :raises RemoteError: with code ``UNIMPLEMENTED`` if the server has no method for it: Go servers and methods of
            your own have none
        :raises ReflexError: if the server can't be reached, or refuses the request
        """
        no_head = RemoteError(
            f"{self._service.name}: the server has no method that returns the head", code="UNIMPLEMENTED"
        )
        if self._service.head is None:
            raise no_head
        try:
            return await _within_limit(self._request_head(self._service.head))
        except grpc.aio.AioRpcError as exc:
            if error_mapping.is_unimplemented(exc):
                raise no_head from None
            raise error_mapping.to_reflex_error(exc, after="", stream=self._name) from None
        except asyncio.CancelledError:
            if is_cancelling():
                raise
            raise StreamStopped("the channel was closed") from None
        except Exception as exc:
            if (error := error_mapping.to_reflex_error(exc, after="", stream=self._name)) is exc:
                raise
            raise error from None

    async def _request_head(self, head: Callable[..., Awaitable[bytes]]) -> str:
        response = await head(pb.HeadRequest(), metadata=await self._request_metadata())
        return protocol.parse(pb.HeadResponse, response).id

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
        *,
        trust_server: bool,
    ) -> None:
        super().__init__(after)
        self._service = service
        self._name = name
        self._metadata = metadata
        self._position = after
        self._options = options
        self._trust_server = trust_server
        self._ids = IdCheck()
        # As declared by the server; None until then, and if the server is trusted without a declaration.
        self._opaque: bool | None = None
        self.opaque_ids = trust_server
        self._admitted = False
        self._tasks = Tasks()
        self._receiver: Receiver | None = None
        self._at_head = False

    async def _open(self) -> str:
        await self._connect_or_end()
        return self._position

    async def _read(self) -> Sequence[Event] | None:
        # The first read of a stream that was not entered has just opened it.
        if self._fed_by is None and (self._at_head or await self._connect_or_end()):
            return ()
        return None

    def _take_fed(self) -> Sequence[Event] | None:
        receiver = self._receiver
        assert receiver is not None
        try:
            events = receiver.take()
            if events:
                # The only place where events are delivered, of pages and single ones, of the first call and later ones.
                if not self._admitted:
                    self._admit(receiver.metadata)
                ids = events.ids if isinstance(events, EventBatch) else [event.id for event in events]
                self._ids.check(ids, after=self._position, opaque=self._opaque)
                self._continue_after(ids[-1])
            return events
        except StreamClosed:
            # The call is still open: _close cancels it.
            raise
        except Exception as exc:
            self._disconnect()
            # Another call finds out how the one ended whose status is lost.
            if self._ends_at_head(exc) or error_mapping.is_status_lost(exc):
                return None
            self._raise(exc)

    async def _close(self) -> None:
        self._disconnect()
        await self._tasks.aclose()

    async def _connect_or_end(self) -> bool:
        """Start a call and let it feed this stream. Return whether the stream has ended at the head instead."""
        try:
            await _within_limit(self._start_call())
        except BaseException as exc:
            self._disconnect()
            if self._ends_at_head(exc):
                return True
            if not isinstance(exc, Exception):
                raise
            if isinstance(exc, ConnectionLost) and self._must_be_confirmed and self._service.lacks_pages:
                # It has just responded to the request for pages: it is a Go server without new events.
                raise _unconfirmed(self._name) from None
            self._raise(exc)
        self._fed_by = self._receiver
        return False

    async def _start_call(self) -> None:
        """Start a call for pages if the server may have them, otherwise for single events."""
        service, metadata = self._service, await self._metadata()
        if service.stream_pages is not None and service.has_pages:
            request = pb.StreamPagesRequest(
                request=protocol.encode_request(pb.StreamRequest, self._position, self._options),
                heartbeat_ms=round(streaming_call.HEARTBEAT * 1000),
            )
            self._receiver = Receiver(
                service.stream_pages(metadata=metadata),
                _decode_pages,
                self._tasks,
                request=request.SerializeToString(),
                at_most=1,
            )
            try:
                await self._receiver.wait_until_open()
                self._admit(self._receiver.metadata)
                return
            except grpc.aio.AioRpcError as exc:
                # A gateway may refuse a method that it doesn't know in any of these ways. If the server has refused the
                # client itself, it does so again.
                if not error_mapping.may_lack_method(exc):
                    raise
                if error_mapping.is_unimplemented(exc):
                    service.remember_pages(False)
        self._receiver = Receiver(
            service.stream(
                protocol.encode_request(service.request_class, self._position, self._options),
                metadata=metadata,
            ),
            service.decode,
            self._tasks,
        )
        if self._must_be_confirmed:
            await self._receiver.wait_until_open()
            self._admit(self._receiver.metadata)
        elif self._options.from_head or self._options.to_head:
            with anyio.move_on_after(_HEAD_TIMEOUT):
                await self._receiver.wait_until_open()
                self._admit(self._receiver.metadata)

    @property
    def _must_be_confirmed(self) -> bool:
        """True if the server may be one that ignores the stream's name."""
        return self._name is not None and not self._trust_server

    def _admit(self, metadata: protocol.ServerMetadata) -> None:
        """Accept a server by its initial metadata.

        :raises RemoteError: if it may serve another stream than the named one
        """
        if self._must_be_confirmed and metadata.cursor is None:
            raise _unconfirmed(self._name)
        self._opaque = metadata.opaque_ids
        if self._opaque is None and not self._trust_server:
            self._opaque = False
        self.opaque_ids = self._opaque is not False
        if self._options.from_head and metadata.cursor is not None:
            if metadata.cursor not in ("", BEGINNING):
                IdCheck().check([metadata.cursor], after="", opaque=self._opaque)
            self._continue_after(metadata.cursor)
        self._admitted = True

    def _continue_after(self, cursor: str) -> None:
        """Make the next call start after ``cursor``."""
        self._position = cursor
        if self._options.from_head:
            self._options = replace(self._options, from_head=False)

    def _disconnect(self) -> None:
        self._fed_by = None
        self._admitted = False
        if self._receiver is not None:
            self._receiver.cancel_call()
            self._receiver = None

    def _ends_at_head(self, error: BaseException) -> bool:
        self._at_head = (
            self._options.to_head
            and isinstance(error, grpc.aio.AioRpcError)
            and error_mapping.is_head_reached(error)
        )
        return self._at_head

    def _raise(self, error: Exception) -> NoReturn:
        """Raise the error that ``error`` stands for."""
        mapped = error_mapping.to_reflex_error(error, after=self._position, stream=self._name)
        if isinstance(mapped, ConnectionLost):
            # The next connection may reach another server, or a newer version, which has pages.
            self._service.remember_pages(True)
        if mapped is error:
            raise error
        raise mapped from None


def _decode_pages(messages: Sequence[bytes]) -> EventBatch:
    [message] = messages
    return decode_page(message)


def _unconfirmed(name: str | None) -> RemoteError:
    return RemoteError(
        f"the server has not confirmed that it serves the stream {name!r}: a Go server ignores the name, and serves its"
        " only stream. Leave out the name, or set trust_server if the server is known to serve the right stream",
        code="UNIMPLEMENTED",
    )


async def _within_limit(request: Awaitable[T]) -> T:
    """Return the result of a request.

    :raises ConnectionLost: if the server takes too long to respond
    """
    # Not anyio's: grpc replaces the cancellation of a unary call by one that anyio does not recognize.
    with suppress(TimeoutError):
        async with asyncio.timeout(_RESPONSE_TIMEOUT):
            return await request
    raise ConnectionLost(f"the server has not responded within {_RESPONSE_TIMEOUT:g} s")
