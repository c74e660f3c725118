"""Cursors as values: which there are, and which of two is behind the other."""

from reflex_aio.errors import InvalidCursor
from reflex_aio.sql.schema import CursorType

__all__ = ["check_consumer", "check_cursor", "is_behind"]

_GREATEST = str(2**63 - 1)


def check_consumer(name: str) -> str:
    """Return the name of a consumer.

    :raises TypeError: if it is no string
    :raises ValueError: if it is empty, or holds what a database can't
    """
    if not isinstance(name, str):
        raise TypeError(f"consumer name {name!r} is a {type(name).__name__}: accepted is a str")
    if not _storable(name):
        raise ValueError(
            f"consumer name {name!r} is not accepted: it is empty, or holds a NUL or a lone surrogate"
        )
    return name


def check_cursor(cursor: str, type: CursorType) -> str:
    """Return a cursor as a table of that type holds it: an integer without leading zeros.

    :raises TypeError: if it is no string
    :raises InvalidCursor: if it is no cursor of that type
    """
    if not isinstance(cursor, str):
        raise TypeError(f"cursor {cursor!r} is a {cursor.__class__.__name__}: accepted is a str")
    if type == "str":
        if _storable(cursor):
            return cursor
        raise InvalidCursor(cursor, "a string that is not empty and holds neither a NUL nor a lone surrogate")
    if _is_number(cursor) and len(cursor) < len(_GREATEST) and cursor[0] != "0":
        # Nearly every one, and there may be a million a second.
        return cursor
    value = cursor.lstrip("0") or "0"
    if not cursor or not _is_number(cursor) or is_behind(_GREATEST, value):
        raise InvalidCursor(cursor, f"a string of digits, up to {_GREATEST}")
    return value


def is_behind(cursor: str, other: str) -> bool:
    """Tell whether ``cursor`` comes before ``other``; false unless both are numbers, as it isn't known."""
    if not (_is_number(cursor) and _is_number(other)):
        return False
    if len(cursor) == len(other):
        return cursor < other
    # Not by int(): opaque strings of digits may be longer than it takes.
    cursor, other = cursor.lstrip("0"), other.lstrip("0")
    return (len(cursor), cursor) < (len(other), other)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _storable(text: str) -> bool:
    if not text or "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
