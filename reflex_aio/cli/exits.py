"""What the command's exit status says, and which error has which."""

from enum import IntEnum

from reflex_aio.errors import (
    ConnectionLost,
    CursorConflict,
    ErrorNotFound,
    EventNotFound,
    InvalidCursor,
    LeaseLost,
    ReflexError,
    StreamStopped,
    TableNotFound,
    UnknownStream,
)

__all__ = ["CommandError", "Exit", "status_of"]


class Exit(IntEnum):
    """The exit status, for scripts. docs/cli.md lists them."""

    DONE = 0
    FAILED = 1
    """Something went wrong, or isn't as it should be."""
    USAGE = 2
    """An option or argument is wrong: nothing was tried."""
    NOT_FOUND = 3
    """There is no such table, consumer, event, error or stream."""
    REFUSED = 4
    """It wasn't safe, or wasn't confirmed: nothing has changed."""
    UNREACHABLE = 5
    """The database or the service can't be reached: try again."""
    INTERRUPTED = 130
    """Ended by Ctrl-C."""
    BROKEN_PIPE = 141
    """Whoever read the output has gone."""
    TERMINATED = 143
    """Ended by SIGTERM."""


class CommandError(Exception):
    """Raised by a command that can't go on, with the line to tell."""

    def __init__(self, message: str, status: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.status = status


_NOT_FOUND = (TableNotFound, ErrorNotFound, EventNotFound, UnknownStream)


def status_of(error: Exception) -> Exit | None:
    """Return the exit status of an error that a command may meet, or ``None`` of one that is a fault of its own."""
    if isinstance(error, CommandError):
        return error.status
    if isinstance(error, _NOT_FOUND):
        return Exit.NOT_FOUND
    if isinstance(error, (ConnectionLost, StreamStopped)):
        return Exit.UNREACHABLE
    if isinstance(error, (CursorConflict, LeaseLost)):
        return Exit.REFUSED
    if isinstance(error, InvalidCursor):
        return Exit.USAGE
    # What an extra would have brought: the message says which.
    return Exit.FAILED if isinstance(error, (ReflexError, ModuleNotFoundError)) else None
