"""MySQL and MariaDB: connections of a pool whose reads see nothing that isn't committed."""

from collections.abc import Awaitable, Callable, Sequence

from reflex_aio.sql.drivers.base import Row

__all__ = ["read_committed", "read_uncommitted"]

_Run = Callable[[str], Awaitable[Sequence[Row]]]

# MySQL and MariaDB call it differently, and each skips what is for the other.
_LEVEL = "SELECT /*M! @@SESSION.tx_isolation */ /*!80003 @@SESSION.transaction_isolation */"
_SESSION = "SET SESSION TRANSACTION ISOLATION LEVEL READ {}"
_HAZARD = "READ-UNCOMMITTED"


async def read_committed(run: _Run) -> bool:
    """See to it that a session with autocommit reads what is committed alone; tell whether it was changed for that.

    The other levels do: without a transaction each statement has a snapshot of its own, and takes no locks to read.
    There must be none, nor a level set for the next one.
    """
    if (await run(_LEVEL))[0][0] != _HAZARD:
        return False
    await run(_SESSION.format("COMMITTED"))
    return True


async def read_uncommitted(run: _Run) -> None:
    """Undo what :func:`read_committed` has changed."""
    await run(_SESSION.format("UNCOMMITTED"))
