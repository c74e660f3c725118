"""The leases table: the process that runs each consumer. It belongs in the database of the cursors."""

from typing import Any

from reflex_aio.sql.leases.store import TableLeaseStore
from reflex_aio.sql.schema.names import LeasesSchema, Name
from reflex_aio.sql.schema.table import Table

__all__ = ["LeasesTable"]


class LeasesTable(Table[LeasesSchema]):
    """A table with a row for each name that was ever leased: its owner, its epoch, and the time at which it expires.

    It belongs in the database of the cursors table, where the statement that moves a cursor can compare the lease.

    :param name: ``table`` or ``schema.table``; case is significant
    :raises TypeError: if ``name`` is not a string
    :raises ValueError: if ``name`` is not accepted as a name
    """

    def __init__(self, name: str) -> None:
        super().__init__(LeasesSchema(Name.parse(name)), locals())

    def store(self, pool: Any) -> TableLeaseStore:
        """Return a lease store that keeps its leases in this table, through ``pool``.

        :raises TypeError: if ``pool`` is not a pool
        """
        return TableLeaseStore(self, pool)
