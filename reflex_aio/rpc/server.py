"""Serving sources over gRPC."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import grpc
from google.protobuf.message import Message

from reflex_aio import pb
from reflex_aio.errors import StreamStopped, UnknownStream
from reflex_aio.rpc import convert, names, status
from reflex_aio.rpc.pages import events_to_pages
from reflex_aio.rpc.sender import Sender
from reflex_aio.stream import EventStream, Source
from reflex_aio.tasks import Tasks, is_cancelling

__all__ = ["StreamServer"]

logger = logging.getLogger(__name__)

_SERVICES = (names.STREAM_SERVICE, names.PAGES_SERVICE)


class StreamServer:
    """Serves sources to any number of clients, on a :mod:`grpc.aio` server.

    ::

        streams = StreamServer({"users": user_events.source(pool)})
        streams.add_to(server)
        await server.start()
        ...
        await streams.stop()
        await server.stop(grace)

    :param sources: the sources by the names that clients ask for, or a single one, which has no name
    :param default: the name of the source for clients that ask for none; a single source needs no default
    :param page_events: the greatest number of events in a page
    :param page_bytes: the greatest size of a page in bytes, unless a single event is larger
    :raises TypeError: if a source is none
    :raises ValueError: if a name can't travel as metadata, or a value is out of its range
    """

    def __init__(
        self,
        sources: Mapping[str, Source] | Source,
        *,
        default: str | None = None,
        page_events: int = 1000,
        page_bytes: int = 1 << 20,
    ) -> None:
        self._sources: dict[str, Source] = {}
        self._default: Source | None = None
        if isinstance(sources, Mapping):
            self._sources = {names.check_stream_name(name): source for name, source in sources.items()}
            if not self._sources:
                raise ValueError("there are no sources to serve")
            if default is not None and default not in self._sources:
                raise ValueError(f"default {default!r} is none of the sources: {', '.join(self._sources)}")
            if default is not None or len(self._sources) == 1:
                self._default = self._sources[default or next(iter(self._sources))]
        elif default is not None:
            raise ValueError(f"default {default!r} is for sources with names: there is a single one")
        else:
            self._default = sources
        for source in (*self._sources.values(), self._default):
            if source is not None and not isinstance(source, Source):
                raise TypeError(f"source {source!r} is a {type(source).__name__}: accepted is a Source")
        if page_events < 1 or page_bytes < 1:
            raise ValueError(f"page_events={page_events}, page_bytes={page_bytes}: accepted is from 1")
        self._page_events = page_events
        self._page_bytes = page_bytes
        self._streams: set[EventStream] = set()
        self._calls = 0
        self._idle = asyncio.Event()
        self._stopping = False
        self._tasks = Tasks()
        self._stop_health: Any = None

    def add_to(self, server: grpc.aio.Server, *, health: bool = False, reflection: bool = False) -> None:
        """Register the services with ``server``, before it is started.

        :param health: answer health checks too, and say NOT_SERVING once stopped (extra ``health``)
        :param reflection: describe the services to those who ask (extra ``reflection``); other services of
            the server are not described
        """
        stream = grpc.unary_stream_rpc_method_handler(
            self._stream,
            request_deserializer=pb.StreamRequest.FromString,
            response_serializer=pb.Event.SerializeToString,
        )
        # Pages come serialized, as that is how their size is known.
        pages: grpc.RpcMethodHandler[pb.StreamPagesRequest, bytes] = grpc.unary_stream_rpc_method_handler(
            self._stream_pages, request_deserializer=pb.StreamPagesRequest.FromString
        )
        head = grpc.unary_unary_rpc_method_handler(
            self._head,
            request_deserializer=pb.HeadRequest.FromString,
            response_serializer=pb.HeadResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(names.STREAM_SERVICE, {"Stream": stream}),
                grpc.method_handlers_generic_handler(
                    names.PAGES_SERVICE, {"StreamPages": pages, "Head": head}
                ),
            )
        )
        if health:
            from reflex_aio.rpc.health import Health

            self._stop_health = Health(server, _SERVICES, self._tasks).stop
        if reflection:
            from reflex_aio.rpc.reflection import add_reflection

            add_reflection(server, _SERVICES)

    async def serve(
        self, request: Message, context: grpc.aio.ServicerContext[Any, Any], source: Source
    ) -> AsyncIterator[Message]:
        """Stream the events of ``source`` from a method of your own service, until its client has enough.

        ::

            async def StreamUsers(self, request, context):
                async for event in self.streams.serve(request, context, user_events.source(pool)):
                    yield event

        :param request: a StreamRequest of reflex.proto, of any build
        :return: messages of the class Event of the same build
        :raises TypeError: if ``request`` is something else
        """
        message_class = convert.event_class_beside(request)
        async with self._opened(request, context, source) as stream:
            # When the call ends in a write, this generator is dropped at the yield, and can't await any more.
            # The stub has a class where it means a protocol.
            context.add_done_callback(lambda _: self._close_soon(stream))  # type: ignore[arg-type]
            while events := await stream.read_page():
                for event in events:
                    yield convert.event_to_message(event, message_class)

    async def stop(self, *, grace: float = 5.0) -> None:
        """End all streams in a way that tells their clients to come back, and refuse new ones.

        Twice is fine. Call it before the server's own ``stop``, which ends streams without a word.

        :param grace: how long to wait for clients to take what is on its way to them, in seconds
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

    async def _stream(
        self, request: pb.StreamRequest, context: grpc.aio.ServicerContext[Any, pb.Event]
    ) -> None:
        async with self._opened(request, context) as stream:
            while events := await stream.read_page():
                for event in events:
                    await context.write(convert.event_to_message(event, pb.Event))

    async def _stream_pages(
        self, request: pb.StreamPagesRequest, context: grpc.aio.ServicerContext[Any, bytes]
    ) -> None:
        max_events = min(request.max_events or self._page_events, self._page_events)
        async with self._opened(request.request, context) as stream, Sender(context) as sender:
            while batch := await stream.read_batch():
                for page in events_to_pages(batch, max_events=max_events, max_bytes=self._page_bytes):
                    await sender.send(page)

    async def _head(
        self, request: pb.HeadRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.HeadResponse:
        async with self._answering(context):
            return pb.HeadResponse(id=await self._source_for(context).head())
        raise AssertionError  # abort has raised

    @asynccontextmanager
    async def _opened(
        self,
        request: Any,
        context: grpc.aio.ServicerContext[Any, Any],
        source: Source | None = None,
    ) -> AsyncIterator[EventStream]:
        """Open the stream that a request asks for, and end the call when it ends."""
        async with self._answering(context):
            if self._stopping:
                raise StreamStopped
            after, options = convert.read_request(request)
            stream = (source or self._source_for(context)).stream(
                after, from_head=options.from_head, to_head=options.to_head, lag=options.lag
            )
            self._streams.add(stream)
            try:
                async with stream:
                    cursor = (names.CURSOR_KEY, stream.cursor.encode())
                    await context.send_initial_metadata((cursor,))
                    yield stream
            finally:
                self._streams.discard(stream)
            await _abort(context, status.HEAD_REACHED)

    @asynccontextmanager
    async def _answering(self, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        """Turn what goes wrong into the status that the call ends with."""
        self._calls += 1
        self._idle.clear()
        try:
            yield
        except grpc.aio.BaseError:
            # The call itself has ended: aborted already, or its client has gone.
            raise
        except asyncio.CancelledError as exc:
            if is_cancelling():
                raise
            # grpc would take it for the client's, and leave the call without an end.
            await self._fail(context, exc)
        except Exception as exc:
            if (known := status.status_of(exc)) is None:
                await self._fail(context, exc)
            else:
                if known is status.SOURCE_LOST:
                    logger.warning("%s has lost its source: %s", _told(context), exc)
                await _abort(context, known)
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def _fail(self, context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> None:
        logger.error("%s has failed", _told(context), exc_info=error)
        await _abort(context, status.FAILED)

    def _source_for(self, context: grpc.aio.ServicerContext[Any, Any]) -> Source:
        asked = names.value_of(names.STREAM_KEY, context.invocation_metadata())
        if asked is None:
            if self._default is None:
                raise UnknownStream(
                    f"this server has several streams, to be named by the metadata {names.STREAM_KEY}:"
                    f" {self._told_names()}"
                )
            return self._default
        if (source := self._sources.get(str(asked))) is None:
            raise UnknownStream(
                f"there is no stream named {asked!r}: there are {self._told_names()}", name=str(asked)
            )
        return source

    def _told_names(self) -> str:
        return ", ".join(map(repr, self._sources)) or "none with a name"

    def _close_soon(self, stream: EventStream) -> None:
        if stream in self._streams:
            self._tasks.start(stream.aclose(), name="reflex_aio served stream")


def _told(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    name = names.value_of(names.STREAM_KEY, context.invocation_metadata())
    return f"the stream {'without a name' if name is None else repr(name)} for {context.peer()}"


async def _abort(context: grpc.aio.ServicerContext[Any, Any], how: status.Status) -> None:
    await context.abort(how.code, how.message, how.trailer())
