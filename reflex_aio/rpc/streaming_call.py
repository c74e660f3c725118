"""The two ends of one streaming call: the client's receiver, with read-ahead, and the server's sender."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Self

import grpc

from reflex_aio.errors import StreamClosed, StreamStopped
from reflex_aio.event import Event
from reflex_aio.rpc.protocol import CURSOR_KEY, metadata_value
from reflex_aio.tasks import Tasks, is_cancelling

__all__ = ["Receiver", "Sender"]

# The size in bytes of buffered messages at which reading from the network pauses. HTTP/2 buffers as much again.
_READ_AHEAD = 256 * 1024


class Receiver:
    """Reads the messages of a call ahead of their consumer, by a bounded amount. Implements ``Feed``.

    It reads in a task of its own, so that a cancelled read of the stream leaves the call open: grpc would cancel the
    call together with the read.

    :param call: a call, as returned by the methods of a :class:`grpc.aio.Channel`
    :param decode: returns the events in one message
    :param tasks: the tasks of the owner, which closes them after :meth:`cancel_call`
    """

    def __init__(
        self,
        call: grpc.aio.UnaryStreamCall[Any, Any],
        decode: Callable[[Any], Iterable[Event]],
        tasks: Tasks,
    ) -> None:
        self._call = call
        self._decode = decode
        self._messages: list[Any] = []
        self._size = 0
        self._end: Exception | None = None
        self._opened = asyncio.Event()
        self._taken = asyncio.Event()
        self._arrival: asyncio.Future[None] | None = None
        self._cancelled = False
        self._cursor: str | None = None
        tasks.start(self._receive(), name="reflex_aio remote stream")

    async def wait_until_open(self) -> str | None:
        """Wait for the server's first response. Return the cursor that the stream starts after, if it was sent.

        :raises grpc.aio.AioRpcError: if the call failed instead
        :raises StreamStopped: if the channel was closed
        """
        await self._opened.wait()
        if self._cursor is None and not self._messages and self._end is not None:
            raise self._end
        return self._cursor

    def take(self) -> list[Event]:
        """Return the buffered events, if there are any.

        :raises grpc.aio.AioRpcError: if the call has ended and all its events have been returned
        :raises MalformedMessage: if a message violates the protocol
        :raises StreamStopped: if the channel was closed, or the server ended the call without a status
        :raises StreamClosed: after :meth:`cancel`
        """
        if self._cancelled:
            raise StreamClosed
        messages, self._messages, self._size = self._messages, [], 0
        self._taken.set()
        events: list[Event] = []
        for message in messages:
            events += self._decode(message)
        if not events and self._end is not None:
            raise self._end
        return events

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
            # grpc also raises it, without a request for cancellation, when the channel is closed during a read.
            self._end = StreamStopped("the channel of the event stream was closed")
            if is_cancelling():
                raise
        except Exception as exc:
            self._end = exc
        finally:
            self._opened.set()
            self._wake()

    async def _receive_all(self) -> Exception:
        """Buffer the messages of the call, and return the error that ends it."""
        cursor = metadata_value(CURSOR_KEY, await self._call.initial_metadata())
        if isinstance(cursor, bytes):
            self._cursor = cursor.decode()
            self._opened.set()
        while True:
            message: Any = await self._call.read()
            if message is grpc.aio.EOF:
                return StreamStopped("the server has ended the event stream without a reason")
            self._messages.append(message)
            self._size += len(message) if isinstance(message, bytes) else message.ByteSize()
            self._opened.set()
            self._wake()
            while self._size >= _READ_AHEAD:
                self._taken.clear()
                await self._taken.wait()


class Sender:
    """Writes the messages of a call, one in the background while the caller prepares the next.

    On exit it waits until the last message has been written, also after an error: the call must not end before.
    """

    def __init__(self, context: grpc.aio.ServicerContext[Any, bytes]) -> None:
        self._context = context
        self._tasks = Tasks()
        self._writing: asyncio.Task[None] | None = None

    async def send(self, message: bytes) -> None:
        """Start to write ``message``, once the previous one has been written.

        :raises grpc.aio.BaseError: if the call has ended
        """
        await self._flush()
        # A task: a bare coroutine would not run before it is awaited.
        self._writing = self._tasks.start(self._write(message), name="reflex_aio served page", awaited=True)

    async def _write(self, message: bytes) -> None:
        await self._context.write(message)

    async def _flush(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            await writing

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if exc is None or isinstance(exc, Exception):
                await self._flush()
        finally:
            await self._tasks.aclose()
