"""The receiving end of one streaming call."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc

from reflex_aio.errors import StreamClosed, StreamStopped
from reflex_aio.event import Event
from reflex_aio.rpc import names
from reflex_aio.tasks import Tasks, is_cancelling

# How many bytes of messages wait for their reader before no more are taken from the network. HTTP/2 holds as
# many again.
_READ_AHEAD = 256 * 1024


class Receiver:
    """Takes the messages of a call as they come, ahead of their reader by a bounded amount: a :class:`Feed`.

    It has a task of its own, so that a read that is cancelled leaves the call as it is: grpc would cancel the
    call too.

    :param call: a call as the methods of a :class:`grpc.aio.Channel` return it
    :param decode: returns the events in one message
    :param tasks: those of the owner, who closes them after :meth:`hang_up`
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

    async def opened(self) -> str | None:
        """Wait for the server to begin. Return the cursor that the stream starts after, if the server tells.

        :raises grpc.aio.AioRpcError: if the call failed instead
        :raises StreamStopped: if the channel was closed
        """
        await self._opened.wait()
        if self._cursor is None and not self._messages and self._end is not None:
            raise self._end
        return self._cursor

    def take(self) -> list[Event]:
        """Return the events that are there, if any.

        :raises grpc.aio.AioRpcError: if the call has ended and all its events were returned
        :raises MalformedMessage: if a message isn't what the protocol says
        :raises StreamStopped: if the channel was closed, or the server ended the call without a reason
        :raises StreamClosed: if this was cancelled
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
        """Return what is done when there is something to :meth:`take`; ``None`` if there is. See :class:`Feed`."""
        if self._messages or self._end is not None or self._cancelled:
            return None
        self._arrival = asyncio.get_running_loop().create_future()
        return self._arrival

    def cancel(self) -> None:
        """End a read that waits, and those to come, by StreamClosed. The call goes on."""
        self._cancelled = True
        self._wake()

    def hang_up(self) -> None:
        """End the call. The task ends with it."""
        self._call.cancel()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def _receive(self) -> None:
        try:
            self._end = await self._receive_all()
        except asyncio.CancelledError:
            # Also raised by a read under which the channel is closed, where nobody asked for it.
            self._end = StreamStopped("the channel of the event stream was closed")
            if is_cancelling():
                raise
        except Exception as exc:
            self._end = exc
        finally:
            self._opened.set()
            self._wake()

    async def _receive_all(self) -> Exception:
        cursor = names.value_of(names.CURSOR_KEY, await self._call.initial_metadata())
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
