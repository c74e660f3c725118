"""The sending end of one streaming call."""

import asyncio
from types import TracebackType
from typing import Any, Self

import grpc

from reflex_aio.tasks import Tasks


class Sender:
    """Has one message on its way while the next one is made, and no more than that.

    Leaving it waits until the last message is on its way, also after an error: the call must not end before.
    """

    def __init__(self, context: grpc.aio.ServicerContext[Any, bytes]) -> None:
        self._context = context
        self._tasks = Tasks()
        self._writing: asyncio.Task[None] | None = None

    async def send(self, message: bytes) -> None:
        """Send ``message`` once the one before it is on its way.

        :raises grpc.aio.BaseError: if the call has ended
        """
        await self._written()
        # A task: on its own, the coroutine would do nothing until it is awaited.
        self._writing = self._tasks.start(self._write(message), name="reflex_aio served page", awaited=True)

    async def _write(self, message: bytes) -> None:
        await self._context.write(message)

    async def _written(self) -> None:
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
                await self._written()
        finally:
            await self._tasks.aclose()
