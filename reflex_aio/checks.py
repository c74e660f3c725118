"""Argument checks, one for each kind of value. Their messages give the value and state what is accepted."""

import functools
import inspect
import math
from collections.abc import Awaitable, Callable
from types import UnionType
from typing import Any, Literal, TypeVar, overload

__all__ = [
    "check_async",
    "check_bool",
    "check_callable",
    "check_count",
    "check_instance",
    "check_seconds",
    "check_text",
    "is_storable_text",
    "wrong_type",
]

T = TypeVar("T")


def wrong_type(name: str, value: object, accepted: str) -> TypeError:
    """Return the TypeError for an argument of the wrong type, to be raised by the caller.

    :param name: the argument, as the caller knows it
    :param accepted: the accepted types or values, as a noun phrase such as ``"a str, or None"``
    """
    return TypeError(f"{name} {value!r} is a {value.__class__.__name__}: accepted is {accepted}")


def check_instance(
    name: str, value: object, kind: type | tuple[type, ...] | UnionType, accepted: str
) -> None:
    """Check the type of an argument.

    A bool passes as an int: for numbers use :func:`check_count` and :func:`check_seconds`.

    :raises TypeError: if ``value`` is not an instance of ``kind``
    """
    if not isinstance(value, kind):
        raise wrong_type(name, value, accepted)


def check_callable(
    name: str, value: object, accepted: str = "an async function", *, none: bool = False
) -> None:
    """Check that an argument can be called.

    :param none: accept ``None`` too
    :raises TypeError: if ``value`` cannot be called
    """
    if not (callable(value) or (none and value is None)):
        raise wrong_type(name, value, accepted + _or_none(none))


def check_async(name: str, value: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Return a function whose result can be awaited: ``value``, or a function that checks the result of each call.

    Lambdas and objects with ``__call__`` are accepted, as they may return what an async function returned.

    :raises TypeError: if ``value`` is a plain function
    """
    check_callable(name, value)
    function: Any = value
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if inspect.iscoroutinefunction(function):
        return value
    if inspect.isroutine(function) and getattr(function, "__name__", "") != "<lambda>":
        raise wrong_type(name, value, "an async function")

    @functools.wraps(value)
    async def checked(*args: Any) -> T:
        result = value(*args)
        if not inspect.isawaitable(result):
            raise TypeError(
                f"{name} {value!r} returned {result!r}, which cannot be awaited: accepted is an async function"
            )
        return await result

    return checked


def check_bool(name: str, value: object) -> bool:
    """Return ``value``, a bool.

    :raises TypeError: if it is not a bool
    """
    if not isinstance(value, bool):
        raise wrong_type(name, value, "a bool")
    return value


@overload
def check_count(
    name: str, value: object, *, least: int, most: int | None = ..., none: Literal[False] = ...
) -> int: ...
@overload
def check_count(
    name: str, value: object, *, least: int, most: int | None = ..., none: Literal[True]
) -> int | None: ...
def check_count(
    name: str, value: object, *, least: int, most: int | None = None, none: bool = False
) -> int | None:
    """Return ``value``, an integer from ``least`` to ``most``.

    :param none: accept ``None`` too
    :raises TypeError: if it is not an integer
    :raises ValueError: if it is out of range
    """
    if none and value is None:
        return None
    accepted = f"an int from {least}" + ("" if most is None else f" to {most}") + _or_none(none)
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(name, value, accepted)
    if value < least or (most is not None and value > most):
        raise ValueError(f"{name} {value} is out of range: accepted is {accepted}")
    return value


@overload
def check_seconds(
    name: str,
    value: object,
    *,
    zero: bool = ...,
    least: float = ...,
    most: float = ...,
    none: Literal[False] = ...,
) -> float: ...
@overload
def check_seconds(
    name: str, value: object, *, zero: bool = ..., least: float = ..., most: float = ..., none: Literal[True]
) -> float | None: ...
def check_seconds(
    name: str,
    value: object,
    *,
    zero: bool = False,
    least: float = 0.0,
    most: float = math.inf,
    none: bool = False,
) -> float | None:
    """Return ``value``, a finite duration in seconds.

    :param zero: accept 0 too
    :param least: the shortest accepted duration, in seconds
    :param most: the longest accepted duration, in seconds
    :param none: accept ``None`` too
    :raises TypeError: if it is not a number
    :raises ValueError: if it is out of range
    """
    if none and value is None:
        return None
    accepted = "a number of seconds " + (f"from {least:g}" if zero or least else "above 0")
    if most < math.inf:
        accepted += f", up to {most:g}"
    accepted += _or_none(none)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise wrong_type(name, value, accepted)
    # Written so that NaN is refused.
    if not ((value >= least if zero or least else value > 0) and value < math.inf and value <= most):
        raise ValueError(f"{name} {value} is out of range: accepted is {accepted}")
    return value


def check_text(name: str, value: object) -> str:
    """Return ``value``, a string that every database can store.

    :raises TypeError: if it is not a string
    :raises ValueError: if it is empty, or contains a NUL or a lone surrogate
    """
    if not isinstance(value, str):
        raise wrong_type(name, value, "a str")
    if not is_storable_text(value):
        raise ValueError(f"{name} {value!r} is not accepted: it is empty, or has a NUL or a lone surrogate")
    return value


def is_storable_text(text: str) -> bool:
    """Return whether ``text`` is not empty and has neither a NUL nor a lone surrogate, as databases require."""
    if not text or "\0" in text:
        return False
    # The usual case, at a third of the cost of encoding.
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _or_none(none: bool) -> str:
    return ", or None" if none else ""
