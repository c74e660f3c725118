"""Waiting for what becomes true by itself, in place of sleeping for long enough."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

import anyio

T = TypeVar("T")


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]],
    what: str | Callable[[], str] = ...,
    *,
    within: float = ...,
    every: float = ...,
) -> T: ...
@overload
async def eventually(
    condition: Callable[[], T],
    what: str | Callable[[], str] = ...,
    *,
    within: float = ...,
    every: float = ...,
) -> T: ...
async def eventually(
    condition: Callable[[], Any],
    what: str | Callable[[], str] = "the condition",
    *,
    within: float = 10.0,
    every: float = 0.01,
) -> Any:
    """Return the first true value of ``condition``, a plain or async function of nothing.

    :param what: what is waited for, told on failure; a function is called only then
    :param within: seconds to wait for it
    :param every: seconds between two looks
    :raises AssertionError: if it doesn't come true in time, with the last value seen
    """
    deadline = anyio.current_time() + within
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if anyio.current_time() > deadline:
            told = what() if callable(what) else what
            raise AssertionError(f"{told}: not within {within:g} s, the last value was {value!r}")
        await anyio.sleep(every)
