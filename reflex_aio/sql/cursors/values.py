"""What may be a consumer's name, and what a cursor."""

from reflex_aio.cursor import is_behind, is_number
from reflex_aio.errors import InvalidCursor
from reflex_aio.sql.schema.names import CursorType

__all__ = ["check_consumer", "check_cursor"]

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
    if is_number(cursor) and len(cursor) < len(_GREATEST) and cursor[0] != "0":
        # Nearly every one, and there may be a million a second.
        return cursor
    value = cursor.lstrip("0") or "0"
    if not cursor or not is_number(cursor) or is_behind(_GREATEST, value):
        raise InvalidCursor(cursor, f"a string of digits, up to {_GREATEST}")
    return value


def _storable(text: str) -> bool:
    if not text or "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
