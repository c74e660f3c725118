"""Cancellation at each await of some work, one after the other."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeAlias

import anyio
import pytest

__all__ = ["CancelledAt", "each_cancellation", "on_trio"]

CancelledAt: TypeAlias = Callable[[int, Coroutine[Any, Any, None]], Awaitable[bool]]


class _Stepped:
    """Awaits ``work``, and calls ``cancel`` when it is about to wait for the ``step``-th time."""

    def __init__(self, work: Coroutine[Any, Any, None], step: int, cancel: Callable[[], object]) -> None:
        self._work = work
        self._step = step
        self._cancel = cancel
        self.cancelled = False

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._work.__await__()
        left = self._step
        resume: Callable[[], Any] = steps.__next__
        while True:
            try:
                wait = resume()
            except StopIteration:
                return
            left -= 1
            if left == 0:
                self.cancelled = True
                self._cancel()
            try:
                answer = yield wait
            except BaseException as exc:
                resume = _bound(steps.throw, exc)
            else:
                resume = _bound(steps.send, answer)


def _bound(function: Callable[[Any], Any], argument: Any) -> Callable[[], Any]:
    return lambda: function(argument)


async def cancelled_by_scope(step: int, work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work``, cancelled by a scope of anyio at its ``step``-th wait; tell whether it had as many."""
    with anyio.CancelScope() as scope:
        await _Stepped(work, step, scope.cancel)
    return scope.cancel_called


async def cancelled_by_task(step: int, work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work``, cancelled as asyncio does it at its ``step``-th wait; tell whether it had as many."""

    async def await_it() -> bool:
        task = asyncio.current_task()
        assert task is not None
        stepped = _Stepped(work, step, task.cancel)
        try:
            await stepped
        except asyncio.CancelledError:
            assert stepped.cancelled
        return stepped.cancelled

    return await asyncio.create_task(await_it())


# Cancellation as each of the two knows it.
each_cancellation = pytest.mark.parametrize(
    ("anyio_backend", "cancelled_at"),
    [
        pytest.param("asyncio", cancelled_by_scope, id="asyncio-scope"),
        pytest.param("asyncio", cancelled_by_task, id="asyncio-task"),
        pytest.param("trio", cancelled_by_scope, id="trio"),
    ],
    indirect=["anyio_backend"],
)

# For what takes its time: trio's clock jumps.
on_trio = pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
