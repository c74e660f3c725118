"""A gRPC service that streams sources to clients."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import grpc
from google.protobuf.message import Message

from reflex_aio import pb
from reflex_aio.checks import check_count, check_instance
from reflex_aio.errors import StreamStopped, UnknownStream
from reflex_aio.rpc import error_mapping, protocol, streaming_call
from reflex_aio.rpc.page_messages import MOST_EVENTS, encode_pages
from reflex_aio.rpc.streaming_call import PeerWatch, Sender, beat
from reflex_aio.stream import EventStream, Source
from reflex_aio.tasks import Group, Tasks, is_cancelling

__all__ = ["StreamServer"]

logger = logging.getLogger(__name__)

_SERVICES = (protocol.STREAM_SERVICE, protocol.PAGES_SERVICE)

# How long a client may take to send its request, in seconds.
_REQUEST_TIMEOUT = 30.0


class StreamServer:
    """Serves sources to any number of clients, on a :mod:`grpc.aio` server.

    ::

        streams = StreamServer({"users": user_events.source(pool)})
        streams.add_to(server)
        await server.start()
        ...
        await streams.stop()
        await server.stop(grace)

    Clients are not trusted. For one that doesn't read, a stream holds one page of its source, and three pages of
    ``page_bytes``. One that has announced heartbeats and sends none for three intervals is disconnected.

    :param sources: the sources by the names that clients request, or a single source, which has no name
    :param default: the name of the source for clients that request none; not needed for a single source
    :param page_events: the maximum number of events in a page, up to 100,000
    :param page_bytes: the maximum size of a page in bytes, unless a single event is larger
    :param max_streams: the maximum number of calls at a time, of all clients together; further ones are refused
    :raises TypeError: if a source is not a :class:`~reflex_aio.stream.Source`
    :raises ValueError: if a name can't be sent as metadata, or a value is out of its range
    """

    def __init__(
        self,
        sources: Mapping[str, Source] | Source,
        *,
        default: str | None = None,
        page_events: int = 1000,
        page_bytes: int = 1 << 17,
        max_streams: int = 1000,
    ) -> None:
        self._sources: dict[str, Source] = {}
        self._default: Source | None = None
        if isinstance(sources, Mapping):
            self._sources = {protocol.check_stream_name(name): source for name, source in sources.items()}
            if not self._sources:
                raise ValueError("there are no sources to serve")
            if default is not None and default not in self._sources:
                raise ValueError(f"default {default!r} is none of the sources: {', '.join(self._sources)}")
            if default is not None or len(self._sources) == 1:
                self._default = self._sources[default or next(iter(self._sources))]
        elif default is not None:
            raise ValueError(f"default {default!r} requires sources with names: a single source has none")
        else:
            self._default = sources
        for source in (*self._sources.values(), self._default):
            if source is not None:
                check_instance("source", source, Source, "a Source")
        self._page_events = check_count("page_events", page_events, least=1, most=MOST_EVENTS)
        self._page_bytes = check_count("page_bytes", page_bytes, least=1)
        self._max_streams = check_count("max_streams", max_streams, least=1)
        self._streams: set[EventStream] = set()
        self._calls = 0
        self._idle = asyncio.Event()
        self._stopping = False
        self._tasks = Tasks()
        self._stop_health: Any = None

    def add_to(self, server: grpc.aio.Server, *, health: bool = False, reflection: bool = False) -> None:
        """Register the services with ``server``, before it is started.

        :param health: respond to health checks too, with NOT_SERVING once stopped (extra ``health``)
        :param reflection: describe the services to clients (extra ``reflection``); other services of the server are
            not described
        """
        # Requests are decoded by the methods: grpc would log a stack trace for each one that it can't decode. Pages are
        # serialized before they are written, so that their size is known.
        stream: grpc.RpcMethodHandler[bytes, pb.Event] = grpc.unary_stream_rpc_method_handler(
            self._stream, response_serializer=pb.Event.SerializeToString
        )
        pages: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._stream_pages)
        head: grpc.RpcMethodHandler[bytes, pb.HeadResponse] = grpc.unary_unary_rpc_method_handler(
            self._head, response_serializer=pb.HeadResponse.SerializeToString
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(protocol.STREAM_SERVICE, {"Stream": stream}),
                grpc.method_handlers_generic_handler(
                    protocol.PAGES_SERVICE, {"StreamPages": pages, "Head": head}
                ),
            )
        )
        if health:
            from reflex_aio.rpc.health_service import ServerHealth

            self._stop_health = ServerHealth(server, _SERVICES, self._tasks).stop
        if reflection:
            _add_reflection(server, _SERVICES)

    async def serve(
        self, request: Message, context: grpc.aio.ServicerContext[Any, Any], source: Source
    ) -> AsyncIterator[Message]:
        """Stream the events of ``source`` from a method of your own service, until its client ends the call.

        ::

            async def StreamUsers(self, request, context):
                async for event in self.streams.serve(request, context, user_events.source(pool)):
                    yield event

        :param request: a StreamRequest of reflex.proto, of any build
        :return: messages of the class Event of the same build
        :raises TypeError: if ``request`` is not a StreamRequest
        """
        message_class = protocol.event_class_for(request)
        async with self._open_stream(request, context, source) as stream:
            # When the call ends during a write, this generator is dropped at the yield, and can't await any more.
            # The type stub has a class where it means a protocol.
            context.add_done_callback(lambda _: self._close_soon(stream))  # type: ignore[arg-type]
            while events := await stream.read_page():
                for event in events:
                    yield protocol.event_to_message(event, message_class)

    async def stop(self, *, grace: float = 5.0) -> None:
        """End all streams with a status that makes clients reconnect, and refuse new ones.

        Call it before the server's own ``stop``, which ends streams without such a status. It may be called again.

        :param grace: the time to wait until clients have received the messages sent so far, in seconds
        """
        self._stopping = True
        if self._stop_health is not None:
            await self._stop_health()
        closed = await asyncio.gather(*(stream.aclose() for stream in self._streams), return_exceptions=True)
        for error in closed:
            if error is not None:
                logger.error("a stream could not be closed", exc_info=error)
        with anyio.move_on_after(grace):
            while self._calls:
                await self._idle.wait()

    async def _stream(self, request: bytes, context: grpc.aio.ServicerContext[bytes, pb.Event]) -> None:
        async with self._open_stream(request, context) as stream:
            while events := await stream.read_page():
                for event in events:
                    await context.write(protocol.event_to_message(event, pb.Event))

    async def _stream_pages(self, requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        async with self._map_errors(context):
            request = await _read_request(context)
            interval = streaming_call.HEARTBEAT
            async with self._opened(request.request, context, heartbeat=interval) as stream:
                group = Group("reflex_aio served stream")

                async def send() -> None:
                    # In the group: a client that is lost would not take the last message, for which the sender waits.
                    async with Sender(context) as sender:
                        group.start(beat, sender.beat, interval)
                        if request.heartbeat_ms:
                            watch = PeerWatch()
                            group.start(_hear, context, watch)
                            group.start(_lose_client, watch, request.heartbeat_ms / 1000)
                        await self._send_pages(stream, sender, request.max_events)

                await group.run(send)
            await _abort(context, error_mapping.HEAD_REACHED)

    async def _send_pages(self, stream: EventStream, sender: Sender, max_events: int) -> None:
        max_events = min(max_events or self._page_events, self._page_events)
        while batch := await stream.read_batch():
            for page in encode_pages(batch, max_events=max_events, max_bytes=self._page_bytes):
                await sender.send(page)

    async def _head(
        self, request: bytes, context: grpc.aio.ServicerContext[bytes, pb.HeadResponse]
    ) -> pb.HeadResponse:
        async with self._map_errors(context):
            protocol.parse(pb.HeadRequest, request)
            return pb.HeadResponse(id=await self._find_source(context).head())
        raise AssertionError  # abort has raised

    @asynccontextmanager
    async def _open_stream(
        self,
        request: Any,
        context: grpc.aio.ServicerContext[Any, Any],
        source: Source | None = None,
    ) -> AsyncIterator[EventStream]:
        """Open the requested stream, and end the call when the stream ends."""
        async with self._map_errors(context):
            if isinstance(request, bytes):
                request = protocol.parse(pb.StreamRequest, request)
            async with self._opened(request, context, source) as stream:
                yield stream
            await _abort(context, error_mapping.HEAD_REACHED)

    @asynccontextmanager
    async def _opened(
        self,
        request: Any,
        context: grpc.aio.ServicerContext[Any, Any],
        source: Source | None = None,
        *,
        heartbeat: float | None = None,
    ) -> AsyncIterator[EventStream]:
        if self._stopping:
            raise StreamStopped
        after, options = protocol.decode_request(request)
        stream = (source or self._find_source(context)).stream(
            after, from_head=options.from_head, to_head=options.to_head, lag=options.lag
        )
        self._streams.add(stream)
        try:
            async with stream:
                metadata = protocol.ServerMetadata(stream.cursor, stream.opaque_ids, heartbeat)
                await context.send_initial_metadata(metadata.pairs())
                yield stream
        finally:
            self._streams.discard(stream)

    @asynccontextmanager
    async def _map_errors(self, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        """End the call with the status for the error that is raised, and log unexpected errors."""
        self._calls += 1
        self._idle.clear()
        try:
            if self._calls > self._max_streams:
                raise error_mapping.TooManyCalls(
                    f"the server has reached its limit of {self._max_streams} calls"
                )
            yield
        except grpc.aio.BaseError:
            # The call has ended: it was aborted, or its client has disconnected.
            raise
        except asyncio.CancelledError as exc:
            if is_cancelling():
                raise
            # grpc would attribute it to the client, and never end the call.
            await self._fail(context, exc)
        except Exception as exc:
            if (status := error_mapping.status_for_error(exc)) is None:
                await self._fail(context, exc)
            else:
                if isinstance(exc, error_mapping.ClientLost):
                    logger.info("%s was closed: %s", _describe(context), exc)
                elif error_mapping.is_fault_of_source(exc):
                    logger.warning("%s has lost its source: %s", _describe(context), exc)
                await _abort(context, status)
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def _fail(self, context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> None:
        logger.error("%s has failed", _describe(context), exc_info=error)
        await _abort(context, error_mapping.FAILED)

    def _find_source(self, context: grpc.aio.ServicerContext[Any, Any]) -> Source:
        """Return the source that a call requests by its metadata.

        :raises UnknownStream: if there is none of that name, or no name and no default
        """
        requested = protocol.metadata_value(protocol.STREAM_KEY, context.invocation_metadata())
        if requested is None:
            if self._default is None:
                raise UnknownStream(
                    f"this server has several streams, to be selected by the metadata {protocol.STREAM_KEY}"
                )
            return self._default
        if (source := self._sources.get(str(requested))) is None:
            # The client may not be authorized to learn the names of others.
            raise UnknownStream(f"there is no stream named {requested!r}", name=str(requested))
        return source

    def _close_soon(self, stream: EventStream) -> None:
        if stream in self._streams:
            self._tasks.start(stream.aclose(), name="reflex_aio served stream")


def _describe(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    name = protocol.metadata_value(protocol.STREAM_KEY, context.invocation_metadata())
    return f"the stream {'without a name' if name is None else repr(name)} for {context.peer()}"


async def _read_request(context: grpc.aio.ServicerContext[bytes, bytes]) -> pb.StreamPagesRequest:
    """Return the first message of the client.

    :raises MalformedMessage: if it is no request, or there is none
    """
    data: Any = grpc.aio.EOF
    with suppress(TimeoutError):
        async with asyncio.timeout(_REQUEST_TIMEOUT):
            data = await context.read()
    if data is grpc.aio.EOF:
        raise protocol.MalformedMessage(f"no request within {_REQUEST_TIMEOUT:g} s")
    return protocol.parse(pb.StreamPagesRequest, data)


async def _hear(context: grpc.aio.ServicerContext[bytes, bytes], watch: PeerWatch) -> None:
    """Note the client's heartbeats, until it has ended its requests, and sends no more."""
    message: Any = None
    with suppress(grpc.aio.BaseError):
        while message is not grpc.aio.EOF:
            message = await context.read()
            watch.hear()
        watch.paused = True


async def _lose_client(watch: PeerWatch, interval: float) -> None:
    """Raise ClientLost when the client has sent no heartbeat for three intervals, in seconds."""
    await watch.wait_for_silence(interval)
    raise error_mapping.ClientLost("the client has sent nothing for three heartbeats")


async def _abort(context: grpc.aio.ServicerContext[Any, Any], status: error_mapping.Status) -> None:
    await context.abort(status.code, status.message, status.trailer())


def _add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Describe ``services``, given by their full names, to clients of ``server``."""
    try:
        from grpc_reflection.v1alpha import reflection
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            "reflection needs grpcio-reflection: pip install 'reflex-aio[reflection]'", name=exc.name
        ) from exc
    reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], server, pool=pb.pool)
