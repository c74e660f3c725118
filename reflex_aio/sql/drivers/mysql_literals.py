"""MySQL and MariaDB: values as literals, which mean the same in every session."""

import math
import re

__all__ = ["literal"]

# Printable ASCII without the quote and the backslash, which sql_mode has a say in. The same in each character set that
# a client may have.
_is_plain = re.compile(r"[ -&(-\[\]-~]*").fullmatch


def literal(value: object) -> str:
    """Return ``value`` as SQL.

    The client libraries escape by the session's ``sql_mode`` and character set, as far as they know these: bytes are
    not safe under NO_BACKSLASH_ESCAPES (and with PyMySQL 1.2, aiomysql can't send any), and text is refused or lost
    where the connection's character set lacks a character. So what isn't plain ASCII is written in hexadecimal, which
    needs no escapes, and text says its character set.

    :raises TypeError: if it is none of None, bool, int, float, str and bytes
    :raises ValueError: if it is a float that is no number, or a str with a surrogate
    """
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return f"'{value}'" if _is_plain(value) else f"_utf8mb4 x'{value.encode().hex()}'"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"x'{value.hex()}'"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value!r} is not accepted: MySQL has finite numbers only")
        return repr(value)
    raise TypeError(
        f"{value!r} is a {type(value).__name__}: accepted is None, a bool, int, float, str or bytes"
    )
