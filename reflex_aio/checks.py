"""Checks of the numbers that patterns are made with."""

import math

__all__ = ["check_count", "check_seconds"]


def check_count(what: str, value: object, *, least: int) -> int:
    """Return ``value``, a number of things.

    :raises TypeError: if it is no integer
    :raises ValueError: if it is less than ``least``
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} {value!r} is a {type(value).__name__}: accepted is an int from {least}")
    if value < least:
        raise ValueError(f"{what} {value} is out of range: accepted is an int from {least}")
    return value


def check_seconds(what: str, value: object) -> float:
    """Return ``value``, a time in seconds.

    :raises TypeError: if it is no number
    :raises ValueError: if it isn't above 0, or not finite
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(
            f"{what} {value!r} is a {type(value).__name__}: accepted is a number of seconds above 0"
        )
    if not 0 < value < math.inf:
        raise ValueError(f"{what} {value} is out of range: accepted is a number of seconds above 0")
    return value
