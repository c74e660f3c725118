"""Cancellation at each await of some work, one after the other."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

import pytest

from reflex_aio.testing.contract import Stepped, cancelled_at

__all__ = ["CancelledAt", "each_cancellation", "on_trio"]

CancelledAt: TypeAlias = Callable[[int, Coroutine[Any, Any, None]], Awaitable[bool]]


async def cancelled_by_task(step: int, work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work``, cancelled as asyncio does it at its ``step``-th wait; tell whether it had as many."""

    async def await_it() -> bool:
        task = asyncio.current_task()
        assert task is not None
        stepped = Stepped(work, step, task.cancel)
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
        pytest.param("asyncio", cancelled_at, id="asyncio-scope"),
        pytest.param("asyncio", cancelled_by_task, id="asyncio-task"),
        pytest.param("trio", cancelled_at, id="trio"),
    ],
    indirect=["anyio_backend"],
)

# For what takes its time: trio's clock jumps.
on_trio = pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
