"""Background tasks, task groups with a single error, and cancellation. The only core module that uses asyncio.

An object that may be closed in another task than the one that opened it cannot keep a task group open in between. It
owns plain tasks instead, which its ``aclose`` ends.
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
Args = TypeVarTuple("Args")

# How often a task that has not ended is cancelled, in seconds.
_CANCEL_PERIOD = 1.0


class Tasks:
    """The background tasks of one object, in one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cancelled: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], *, name: str, awaited: bool = False) -> asyncio.Task[T]:
        """Run ``work`` in the background.

        :param awaited: the task will be awaited, which raises its exception; otherwise the exception is logged
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done if awaited else self._done_and_log)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._cancelled.discard(task)
        if not task.cancelled():
            # Mark the exception as retrieved: a task that awaited this one may have been cancelled.
            task.exception()

    def _done_and_log(self, task: asyncio.Task[Any]) -> None:
        self._done(task)
        _log_failure(task)

    async def aclose(self) -> None:
        """Cancel the tasks, and wait until all have ended, even if the caller is cancelled.

        One of the tasks may call this too: it is not cancelled itself. Tasks may be started again afterwards.
        """
        caller = asyncio.current_task()
        if caller in self._tasks:
            # Not shielded: another aclose may have cancelled this task, and waits for it.
            await self._end(caller)
        else:
            await shielded(self._end(caller))

    async def _end(self, caller: asyncio.Task[Any] | None) -> None:
        # A loop, because a task may start another one while it ends.
        while tasks := self._tasks - {caller}:
            # Cancel each task once: a second cancellation, by another aclose, would interrupt its clean-up.
            for task in tasks - self._cancelled:
                self._cancelled.add(task)
                task.cancel()
            await asyncio.wait(tasks)


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end. If the caller is cancelled, raise the cancellation after that.

    A shield of anyio stops cancellations by anyio's scopes, but not those by asyncio: ``task.cancel()``,
    ``asyncio.timeout``, ``asyncio.TaskGroup``. On asyncio, the work therefore runs in a task of its own. It must be
    limited in time.
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
    """Return whether the current task is an asyncio task."""
    return _current_task() is not None


def is_cancelling() -> bool:
    """Return whether the current task is being cancelled, as opposed to a CancelledError that a callee raised."""
    return pending_cancellations() > 0


def pending_cancellations() -> int:
    """Return the number of pending requests to cancel the current task; 0 on trio."""
    task = _current_task()
    return 0 if task is None else task.cancelling()


def is_cancellation(error: BaseException, *, pending_before: int) -> bool:
    """Return whether ``error`` is a cancellation of the current task, as opposed to one that a callee raised.

    Call this where the error was caught. grpc.aio, for example, raises a CancelledError when a channel is closed during
    a read; in a task group it would silently end the sibling tasks.

    :param pending_before: the result of :func:`pending_cancellations` before the work that raised it
    """
    return isinstance(error, anyio.get_cancelled_exc_class()) and (
        pending_cancellations() > pending_before or anyio.current_effective_deadline() == -math.inf
    )


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        # Not in an asyncio event loop.
        return None


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("background task %s failed", task.get_name(), exc_info=error)


class Group:
    """A task group that raises its first error as it is, not in an exception group. Later errors are logged.

    On asyncio, the work and the tasks are cancelled once, and then once per second until they have ended. The scopes of
    anyio would cancel a task that swallows its cancellation again in each turn of the event loop.

    :param name: the consumer, for the log
    :param not_ended: called once, on asyncio, if a task has not ended a second after it was cancelled
    """

    def __init__(self, name: str, *, not_ended: Callable[[], None] = lambda: None) -> None:
        self._name = name
        self._not_ended = not_ended
        self._error: BaseException | None = None
        self._cancelled = False
        # On asyncio: the tasks, an event that is set when none is left, and the timer of the next cancellation.
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        # Elsewhere.
        self._task_group: TaskGroup | None = None

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work``. When it returns, cancel the tasks that it started."""
        try:
            if on_asyncio():
                await self._run_on_asyncio(work)
            else:
                async with anyio.create_task_group() as self._task_group:
                    await self._run_work(work)
        finally:
            # Also in place of a cancellation, as an error in clean-up does.
            if self._error is not None:
                raise self._error

    async def _run_on_asyncio(self, work: Callable[[], Awaitable[None]]) -> None:
        # In a task of its own: a scope of the caller's that is cancelled would not let go of this one.
        self._empty = asyncio.Event()
        self._start(self._run_work(work))
        try:
            await self._empty.wait()
        except asyncio.CancelledError:
            self.cancel()
            await shielded(self._empty.wait())
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def start(self, work: Callable[[Unpack[Args]], Awaitable[None]], *args: *Args) -> None:
        """Start ``work`` in a task. Call this within :meth:`run` only."""
        if self._task_group is not None:
            self._task_group.start_soon(self._guarded, work, *args)
            return
        self._start(self._guarded(work, *args))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if self._cancelled:
            task.cancel()

    def cancel(self) -> None:
        """Cancel the work and the tasks; :meth:`run` returns when they have ended. Does nothing before and after."""
        if self._task_group is not None:
            self._task_group.cancel_scope.cancel()
        elif not self._cancelled and self._tasks:
            self._cancelled = True
            self._cancel_tasks()

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._timer = asyncio.get_running_loop().call_later(_CANCEL_PERIOD, self._cancel_again)

    def _cancel_again(self) -> None:
        not_ended, self._not_ended = self._not_ended, lambda: None
        not_ended()
        self._cancel_tasks()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks and self._empty is not None:
            self._empty.set()

    async def _run_work(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._guarded(work)
        finally:
            self.cancel()

    async def _guarded(self, work: Callable[[Unpack[Args]], Awaitable[None]], *args: *Args) -> None:
        if self._error is not None:
            # The task was started just before the failure, and would run up to its first wait.
            return
        pending_before = pending_cancellations()
        try:
            await work(*args)
        except BaseException as exc:
            if is_cancellation(exc, pending_before=pending_before):
                raise
            self._failed(exc)
            self.cancel()

    def _failed(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        else:
            logger.error("consumer %s: another error", self._name, exc_info=error)
