"""Waiting for what becomes true by itself, in place of sleeping for long enough."""

import inspect
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

import anyio

T = TypeVar("T")

_PATIENCE = "REFLEX_TEST_PATIENCE"


def patience() -> float | None:
    """Return the factor of all limits of time, or None before it is measured."""
    factor = os.environ.get(_PATIENCE)
    return None if factor is None else float(factor)


def set_patience(factor: float) -> None:
    """Set the factor of all limits of time, for this process and those that it starts."""
    os.environ[_PATIENCE] = f"{factor:.2f}"


def deadline(seconds: float) -> float:
    """Return how long to wait, at most, for what takes less than ``seconds`` on a quiet machine.

    It only guards against hanging: no test may prove something about the product by it.
    """
    return seconds * (patience() or 1.0)


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
    :param within: seconds to wait for it on a quiet machine, see :func:`deadline`
    :param every: seconds between two looks
    :raises AssertionError: if it doesn't come true in time, with the last value seen
    """
    within = deadline(within)
    until = anyio.current_time() + within
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if anyio.current_time() > until:
            told = what() if callable(what) else what
            raise AssertionError(f"{told}: not within {within:g} s, the last value was {value!r}")
        await anyio.sleep(every)
