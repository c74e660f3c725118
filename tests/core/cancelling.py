"""Cancellation at each await of some work, one after the other."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import anyio
import pytest

from reflex_aio.tasks import on_asyncio

__all__ = ["CancelledAt", "cancelled_at", "each_cancellation", "on_trio"]

CancelledAt: TypeAlias = Callable[[int, Coroutine[Any, Any, None]], Awaitable[bool]]


class Steps:
    """Counts the waits of some work, on asyncio also those of the tasks that are started meanwhile.

    :param step: the wait before which ``cancel`` is called
    """

    def __init__(self, step: int, cancel: Callable[[], object]) -> None:
        self._left = step
        self._cancel = cancel
        self.cancelled = False

    async def count(self, work: Coroutine[Any, Any, None]) -> None:
        with self._counting_tasks():
            await Counted(work, self.wait)

    def wait(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.cancelled = True
            self._cancel()

    @contextmanager
    def _counting_tasks(self) -> Iterator[None]:
        if not on_asyncio():
            yield
            return
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()

        def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
            return asyncio.Task(Counted(work, self.wait), loop=loop, **options)

        loop.set_task_factory(make)
        try:
            yield
        finally:
            loop.set_task_factory(before)


class Counted(Coroutine[Any, Any, None], Generator[Any, Any, None]):
    """A coroutine that calls ``count`` before each of its waits."""

    def __init__(self, work: Coroutine[Any, Any, None], count: Callable[[], None]) -> None:
        self._work = work
        self._count = count

    def __await__(self) -> Generator[Any, Any, None]:
        return self

    def send(self, value: Any) -> Any:
        return self._counted(self._work.send(value))

    def throw(self, *error: Any) -> Any:
        return self._counted(self._work.throw(*error))

    def close(self) -> None:
        self._work.close()

    def _counted(self, wait: Any) -> Any:
        self._count()
        return wait


async def cancelled_at(step: int, work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work``, cancelled by a scope at its ``step``-th wait; return whether it had as many."""
    with anyio.CancelScope() as scope:
        await Steps(step, scope.cancel).count(work)
    return scope.cancel_called


async def cancelled_by_task(step: int, work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work``, cancelled as asyncio does it at its ``step``-th wait; return whether it had as many."""

    async def await_it() -> bool:
        task = asyncio.current_task()
        assert task is not None
        steps = Steps(step, task.cancel)
        try:
            await steps.count(work)
        except asyncio.CancelledError:
            assert steps.cancelled
        return steps.cancelled

    return await asyncio.create_task(await_it())


# Cancellation as each of the two knows it.
each_cancellation = pytest.mark.parametrize(
    ("anyio_backend", "cancelled_at"),
    [
        pytest.param("asyncio", cancelled_at, id="asyncio-scope"),
        pytest.param("asyncio", cancelled_by_task, id="asyncio-task"),
        pytest.param("trio", cancelled_at, id="trio"),
    ],
    indirect=["anyio_backend"],
)

# For what takes its time: trio's clock jumps.
on_trio = pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
