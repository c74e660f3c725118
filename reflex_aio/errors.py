"""The package's exceptions.

::

    ReflexError
    ├── StreamStopped          the source ended the stream; open a new one
    ├── StreamClosed           the stream was closed on this side
    ├── ConnectionLost         the database or the service cannot be reached; try again
    ├── InvalidCursor          not a cursor of this source (also a ValueError)
    ├── CursorAhead            the cursor is greater than every id that the table ever had
    ├── CursorConflict         the stored cursor is not the expected one
    ├── LeaseLost              the lease is no longer held
    ├── ErrorNotFound          the errors table has no such error (also a LookupError)
    ├── EventNotFound          the source has no such event (also a LookupError)
    ├── FilterError            a consumer's event filter raised
    ├── MetadataError          an event's metadata could not be decoded
    ├── UnknownStream          the server has no stream of that name
    ├── MessageTooLarge        one event is larger than a gRPC message may be
    ├── RemoteError            any other failure reported by a remote service
    ├── DatabaseError          any other failure reported by the database
    ├── SchemaError            a table differs from its table object
    │   └── TableNotFound
    ├── TableRefused           the table's ids cannot be streamed without missing events
    └── TableReplaced          the table or its id sequence was replaced under a stream

Wrong arguments raise :class:`ValueError` or :class:`TypeError`. Names without the ``Error`` suffix are signals, or
states that occur in a healthy system.
"""

import reprlib
from collections.abc import Sequence
from typing import Any

__all__ = [
    "ConnectionLost",
    "CursorAhead",
    "CursorConflict",
    "DatabaseError",
    "ErrorNotFound",
    "EventNotFound",
    "FilterError",
    "InvalidCursor",
    "LeaseLost",
    "MessageTooLarge",
    "MetadataError",
    "ReflexError",
    "RemoteError",
    "SchemaError",
    "StreamClosed",
    "StreamStopped",
    "TableNotFound",
    "TableRefused",
    "TableReplaced",
    "UnknownStream",
    "is_expected",
]


# A value that is given for a cursor may have any type and any length.
_cut = reprlib.Repr()
_cut.maxstring = _cut.maxother = 100


class ReflexError(Exception):
    """The base of all exceptions of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Most constructors have keyword-only parameters, but copying and pickling would pass the message.
        return _restored, (type(self), self.args, self.__dict__)


class StreamStopped(ReflexError):
    """Raised when the source ended the stream, for example because a server shuts down. Open a new stream."""

    def __init__(self, message: str = "the event stream has been stopped") -> None:
        super().__init__(message)


class StreamClosed(ReflexError):
    """Raised by a read of a stream that was closed by this process."""

    def __init__(self, message: str = "the event stream has been closed") -> None:
        super().__init__(message)


class ConnectionLost(ReflexError):
    """Raised when the database or the remote service cannot be reached, or the connection was lost."""


class InvalidCursor(ReflexError, ValueError):
    """Raised when a value is not a cursor of the source."""

    def __init__(self, cursor: object, accepted: str) -> None:
        super().__init__(f"{_cut.repr(cursor)} is not a cursor: accepted is {accepted}")
        self.cursor = cursor
        self.accepted = accepted


class CursorAhead(ReflexError):
    """Raised when a cursor is greater than every id that the table ever had.

    The table was truncated or restored, or the cursor belongs to another table. A stream would wait forever, or skip
    events.
    """

    def __init__(self, *, table: str, cursor: str, last: str) -> None:
        super().__init__(
            f"{table}: cursor {cursor} is ahead of the table, whose last id is {last or 'none'}: was it"
            " truncated or restored, or is this another table's cursor? Rewind the consumer"
        )
        self.table = table
        self.cursor = cursor
        self.last = last


class CursorConflict(ReflexError):
    """Raised when a cursor would move backwards, or the stored cursor is not the expected one."""

    def __init__(self, *, consumer: str, stored: str, given: str, expected: str | None = None) -> None:
        if expected is None:
            reason = f"cursor {given!r} is not after the stored {stored!r}: rewind() moves it backwards"
        else:
            reason = f"the stored cursor is {stored!r}, not {expected!r}: not moved to {given!r}"
        super().__init__(f"{consumer}: {reason}")
        self.consumer = consumer
        self.stored = stored
        self.given = given
        self.expected = expected


class LeaseLost(ReflexError):
    """Raised when a lease is no longer held: another owner has acquired it, or it was released."""

    def __init__(self, *, name: str, owner: str, epoch: int) -> None:
        super().__init__(f"{name}: {owner} no longer holds the lease of epoch {epoch}")
        self.name = name
        self.owner = owner
        self.epoch = epoch


class ErrorNotFound(ReflexError, LookupError):
    """Raised when an errors table has no error with the given id."""

    def __init__(self, *, table: str, error_id: str) -> None:
        super().__init__(f"{table}: there is no error {error_id}")
        self.table = table
        self.error_id = error_id


class EventNotFound(ReflexError, LookupError):
    """Raised when a source does not have the event: it was deleted, or belongs to another source."""

    def __init__(self, *, source: str, event_id: str) -> None:
        super().__init__(
            f"{source}: there is no event {event_id}: was it deleted, or is this another source?"
        )
        self.source = source
        self.event_id = event_id


class FilterError(ReflexError):
    """Raised when a consumer's event filter raised. The filter's exception is the cause."""

    def __init__(self, *, consumer: str, event_id: str) -> None:
        super().__init__(f"{consumer}: the filter failed on event {event_id}")
        self.consumer = consumer
        self.event_id = event_id


class MetadataError(ReflexError):
    """Raised by a filter or a codec when an event's metadata could not be decoded. The decoder's error is the cause."""

    def __init__(self, *, event_id: str, reason: str = "") -> None:
        super().__init__(f"the metadata of event {event_id} could not be decoded{reason and ': ' + reason}")
        self.event_id = event_id


class UnknownStream(ReflexError):
    """Raised when a server has no stream with the given name."""

    def __init__(self, message: str, *, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name


class MessageTooLarge(ReflexError):
    """Raised when one event is larger than a gRPC message may be."""


class RemoteError(ReflexError):
    """Raised for a failure reported by a remote service that has no exception of its own.

    ``code`` is the gRPC status code's name, such as ``"INTERNAL"``.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class DatabaseError(ReflexError):
    """Raised for a failure reported by the database. The driver's exception is the cause.

    ``sqlstate`` is the five-character code of the SQL standard, if the database gave one. ``lock_conflict`` is true for
    a deadlock or a lock timeout; the same operation may succeed later.
    """

    def __init__(self, message: str, *, sqlstate: str | None = None, lock_conflict: bool = False) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.lock_conflict = lock_conflict


class SchemaError(ReflexError):
    """Raised when a table differs from its table object. ``differences`` has a line for each difference."""

    def __init__(self, *, table: str, differences: Sequence[str]) -> None:
        super().__init__(f"{table}: " + "; ".join(differences))
        self.table = table
        self.differences: tuple[str, ...] = tuple(differences)


class TableNotFound(SchemaError):
    """Raised when a table does not exist, or is not in the search path of the connection."""

    def __init__(self, *, table: str) -> None:
        reason = "the table does not exist (create() makes it, ddl() returns its DDL; check the search path)"
        if table != table.lower():
            reason += "; names are quoted, so case counts"
        super().__init__(table=table, differences=[reason])


class TableRefused(ReflexError):
    """Raised when a table's ids are assigned in such a way that events could be missed."""

    def __init__(self, *, table: str, reason: str, remedy: str) -> None:
        super().__init__(f"{table}: {reason}: {remedy}")
        self.table = table
        self.reason = reason
        self.remedy = remedy


class TableReplaced(ReflexError):
    """Raised when a table or its id sequence was dropped, replaced or restarted under a stream.

    Ids may now belong to other events. Check the cursors of the table's consumers, and set them again.
    """

    def __init__(self, *, table: str, what: str) -> None:
        super().__init__(
            f"{table}: {what} under a running stream: check the consumers' cursors, then start it again"
        )
        self.table = table
        self.what = what


def is_expected(error: BaseException) -> bool:
    """Return whether ``error`` is part of normal operation, such as a server's restart, rather than a fault."""
    return isinstance(error, (StreamStopped, ConnectionLost))


def _restored(kind: type[ReflexError], args: tuple[Any, ...], state: dict[str, Any]) -> ReflexError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error
