"""Work that goes on side by side within one call."""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVarTuple, Unpack

import anyio
from anyio.abc import TaskGroup

from reflex_aio.tasks import is_cancellation, times_asked_to_cancel

__all__ = ["Group"]

logger = logging.getLogger(__name__)

Args = TypeVarTuple("Args")


class Group:
    """A task group whose first failure ends all of it and is raised as it is, in no exception group.

    :param name: whose work it is, for the log, which is where later failures go
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._error: BaseException | None = None
        self._tasks: TaskGroup | None = None

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work``; when it is done, cancel what it has started and still goes on."""
        async with anyio.create_task_group() as self._tasks:
            await self._guarded(work)
            self._tasks.cancel_scope.cancel()
        if self._error is not None:
            raise self._error

    def start(self, work: Callable[[Unpack[Args]], Awaitable[None]], *args: *Args) -> None:
        """Do ``work`` beside what else goes on. To be called from within the work."""
        assert self._tasks is not None
        self._tasks.start_soon(self._guarded, work, *args)

    async def _guarded(self, work: Callable[[Unpack[Args]], Awaitable[None]], *args: *Args) -> None:
        assert self._tasks is not None
        if self._error is not None:
            # It was started just before the failure, and would begin before its cancellation.
            return
        asked_before = times_asked_to_cancel()
        try:
            await work(*args)
        except BaseException as exc:
            if is_cancellation(exc, asked_before=asked_before):
                raise
            self._failed(exc)
            self._tasks.cancel_scope.cancel()

    def _failed(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        else:
            logger.error("consumer %s has met a second error", self._name, exc_info=error)
