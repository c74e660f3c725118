"""Background tasks that belong to an object. The one core module that knows asyncio.

An object that is closed in another task than it was opened in, or in no particular order, can't hold a task group open
in between; it owns plain tasks instead, and its ``aclose`` ends them.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["Tasks", "asked_to_cancel"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Tasks:
    """The background tasks of one object, in one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run ``work`` in the background. Whatever it raises is logged, and raised to those who await the task."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background task %s failed", task.get_name(), exc_info=error)

    async def aclose(self) -> None:
        """Cancel the tasks and wait until each has ended, also when the caller is cancelled meanwhile."""
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        interrupted: asyncio.CancelledError | None = None
        while tasks:
            try:
                _, tasks = await asyncio.wait(tasks)
            except asyncio.CancelledError as exc:
                interrupted = exc
                tasks = {task for task in tasks if not task.done()}
        if interrupted is not None:
            raise interrupted


def asked_to_cancel() -> bool:
    """Tell whether the current task was asked to cancel, rather than met a CancelledError from below."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
