"""Cancellation at each await of some work, one after the other."""

from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

import anyio

__all__ = ["Stepped", "cancelled_at"]

T = TypeVar("T")


class Stepped(Generic[T]):
    """Awaits ``work``, and calls ``cancel`` when it is about to wait for the ``step``-th time."""

    def __init__(self, work: Awaitable[T], step: int, cancel: Callable[[], object]) -> None:
        self._work = work
        self._step = step
        self._cancel = cancel
        self.cancelled = False

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._work.__await__()
        left = self._step
        resume: Callable[[], Any] = partial(next, steps)
        while True:
            try:
                wait = resume()
            except StopIteration as stop:
                result: T = stop.value
                return result
            left -= 1
            if left == 0:
                self.cancelled = True
                self._cancel()
            try:
                answer = yield wait
            except BaseException as exc:
                resume = partial(steps.throw, exc)
            else:
                resume = partial(steps.send, answer)


async def cancelled_at(step: int, work: Awaitable[object]) -> bool:
    """Do ``work``, cancelled at its ``step``-th wait; tell whether it had as many."""
    with anyio.CancelScope() as scope:
        await Stepped(work, step, scope.cancel)
    return scope.cancel_called
