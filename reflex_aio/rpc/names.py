"""The names on the wire that both ends must know."""

from collections.abc import Iterable

STREAM_SERVICE = "reflexpb.Reflex"
PAGES_SERVICE = "reflexaio.v1.ReflexPages"

STREAM_METHOD = f"/{STREAM_SERVICE}/Stream"
PAGES_METHOD = f"/{PAGES_SERVICE}/StreamPages"
HEAD_METHOD = f"/{PAGES_SERVICE}/Head"

STREAM_KEY = "reflex-stream"
"""Request metadata: the name of the stream that is meant."""

CURSOR_KEY = "reflex-cursor-bin"
"""Initial metadata: the cursor that the stream starts after, in UTF-8, with the head resolved."""


def value_of(key: str, metadata: Iterable[tuple[str, str | bytes]] | None) -> str | bytes | None:
    """Return the first value of ``key`` in metadata, or ``None``."""
    # By pairs, which is what grpc.aio.Metadata iterates over in every version; dict() takes not all of them.
    return next((value for name, value in metadata or () if name == key), None)


def check_stream_name(name: str) -> str:
    """Return a name that can travel as metadata.

    :raises TypeError: if it is no string
    :raises ValueError: if it is empty, or has other characters than printable ASCII ones, or spaces around it
    """
    if not isinstance(name, str):
        raise TypeError(f"stream name {name!r} is a {type(name).__name__}: accepted is a str")
    if not name or not name.isascii() or not name.isprintable() or name != name.strip():
        raise ValueError(f"stream name {name!r}: accepted is printable ASCII without spaces around it")
    return name


def check_method(method: str) -> str:
    """Return the path of a method, such as ``/package.Service/Method``.

    :raises ValueError: if it isn't one
    """
    match method.split("/") if isinstance(method, str) else ():
        case ["", service, name] if service and name:
            return method
    raise ValueError(f"method {method!r}: accepted is a path such as {STREAM_METHOD!r}")
