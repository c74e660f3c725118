"""The leases table: which replica of a service runs a consumer, beside the table of its cursors."""

from typing import Any

from reflex_aio.sql.leases.store import TableLeaseStore
from reflex_aio.sql.schema.names import LeasesSchema, Name
from reflex_aio.sql.schema.table import Table

__all__ = ["LeasesTable"]


class LeasesTable(Table[LeasesSchema]):
    """A table with a row for each name that was ever leased: its owner, its epoch, and when it expires.

    It belongs into the database that the cursors are in: there, a statement that moves a cursor can compare the lease.

    :param name: ``table`` or ``schema.table``; case counts
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if a name isn't accepted
    """

    def __init__(self, name: str) -> None:
        super().__init__(LeasesSchema(Name.parse(name)), locals())

    def store(self, pool: Any) -> TableLeaseStore:
        """Return the store that lends the leases of this table, through a pool.

        :raises TypeError: if it isn't a pool
        """
        return TableLeaseStore(self._schema, pool)
