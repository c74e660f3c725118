"""Background tasks that belong to an object, and asyncio's kind of cancellation.

The one core module that knows asyncio. An object that is closed in another task than it was opened in, or in
no particular order, can't hold a task group open in between; it owns plain tasks instead, and its ``aclose``
ends them.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple, Unpack

import anyio
from anyio.abc import TaskGroup

__all__ = [
    "Group",
    "Tasks",
    "is_cancellation",
    "is_cancelling",
    "on_asyncio",
    "pending_cancellations",
    "shielded",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Tasks:
    """The background tasks of one object, in one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cancelled: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], *, name: str, awaited: bool = False) -> asyncio.Task[T]:
        """Run ``work`` in the background.

        :param awaited: whoever awaits the task meets what it raises; otherwise that is logged
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done if awaited else self._done_alone)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._cancelled.discard(task)
        if not task.cancelled():
            # Marks it as seen: those who awaited the task may have been cancelled meanwhile.
            task.exception()

    def _done_alone(self, task: asyncio.Task[Any]) -> None:
        self._done(task)
        _log_failure(task)

    async def aclose(self) -> None:
        """Cancel the tasks and wait until each has ended, also when the caller is cancelled meanwhile.

        A task among them may call this too: it goes on itself. Tasks may be started again afterwards.
        """
        caller = asyncio.current_task()
        if caller in self._tasks:
            # Not shielded: another aclose may have cancelled this task, and wait for it.
            await self._end(caller)
        else:
            await shielded(self._end(caller))

    async def _end(self, caller: asyncio.Task[Any] | None) -> None:
        # Again and again, as a task that ends may start another one.
        while tasks := self._tasks - {caller}:
            # Once each: a second cancellation, by another aclose, would cut the clean-up of a task short.
            for task in tasks - self._cancelled:
                self._cancelled.add(task)
                task.cancel()
            await asyncio.wait(tasks)


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Do ``work`` to its end; raise a cancellation of the caller that comes meanwhile only then.

    A shield of anyio's holds off the cancellations of anyio's scopes, but not those of asyncio:
    ``task.cancel()``, ``asyncio.timeout``, ``asyncio.TaskGroup``. So on asyncio the work is done in a task of
    its own. It has to be bounded in time.
    """
    with anyio.CancelScope(shield=True):
        if _current_task() is None:
            return await work
        task = asyncio.create_task(work)
        interrupted: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as exc:
                interrupted = exc
    if interrupted is not None:
        _log_failure(task)
        raise interrupted
    return task.result()


def on_asyncio() -> bool:
    """Tell whether the current task is one of asyncio's."""
    return _current_task() is not None


def is_cancelling() -> bool:
    """Tell whether the current task was asked to cancel, rather than met a CancelledError from below."""
    return pending_cancellations() > 0


def pending_cancellations() -> int:
    """Return how often the current task was asked to cancel; 0 where there is no asyncio."""
    task = _current_task()
    return 0 if task is None else task.cancelling()


def is_cancellation(error: BaseException, *, pending_before: int) -> bool:
    """Tell whether ``error`` is a cancellation that somebody asked for, rather than one that came from below.

    To be called where it was caught. grpc.aio, for one, raises a CancelledError of its own when a channel is
    closed under a read; in a task group it would end the siblings in silence.

    :param pending_before: :func:`pending_cancellations` before the work that raised it
    """
    return isinstance(error, anyio.get_cancelled_exc_class()) and (
        pending_cancellations() > pending_before or anyio.current_effective_deadline() == -math.inf
    )


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        # Not on asyncio.
        return None


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("background task %s failed", task.get_name(), exc_info=error)


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
        pending_before = pending_cancellations()
        try:
            await work(*args)
        except BaseException as exc:
            if is_cancellation(exc, pending_before=pending_before):
                raise
            self._failed(exc)
            self._tasks.cancel_scope.cancel()

    def _failed(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        else:
            logger.error("consumer %s has met a second error", self._name, exc_info=error)
