"""The lease store on a table, and comparing its leases where cursors are moved."""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from reflex_aio.errors import LeaseLost
from reflex_aio.lease import Lease, LeaseState, LeaseStore, check_lease, check_ttl
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_pool
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.leases.dialect import LeasesDialect
from reflex_aio.sql.schema.names import LeasesSchema

__all__ = ["TableLease", "TableLeaseStore", "check_fence", "hold_lease", "lost_leases"]


@dataclass(frozen=True, slots=True)
class TableLease(Lease):
    """A lease that knows in which table it is."""

    schema: LeasesSchema = field(repr=False)


class TableLeaseStore(LeaseStore):
    """Lends the leases of a table, through a pool. What time it is, the database tells.

    :meth:`~reflex_aio.sql.LeasesTable.store` makes it. Beside what they say, its methods raise
    :class:`~reflex_aio.errors.ConnectionLost`, :class:`~reflex_aio.errors.TableNotFound`,
    :class:`~reflex_aio.errors.SchemaError` and, for all else that the database refuses,
    :class:`~reflex_aio.errors.DatabaseError`.
    """

    def __init__(self, schema: LeasesSchema, pool: Any) -> None:
        self._driver = driver_of_pool(pool)
        self._dialect = dialect_part(LeasesDialect, self._driver.dialect, schema)
        self._schema = schema
        self._pool = pool

    def __repr__(self) -> str:
        return f"LeasesTable({str(self._schema.table)!r}).store({self._pool!r})"

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        """Acquire ``name`` for ``owner``, or return ``None``. See :class:`~reflex_aio.lease.LeaseStore`.

        :raises TypeError: if an argument has the wrong type
        :raises ValueError: if an argument is out of its range
        """
        check_lease(name, owner)
        check_ttl(ttl)
        async with self._connection() as connection:
            epoch = await self._dialect.acquire(self._driver, connection, name, owner, ttl)
        return None if epoch is None else TableLease(name, owner, epoch, self._schema)

    async def renew(self, lease: Lease, *, ttl: float) -> None:
        """Let ``lease`` expire in ``ttl`` seconds from now. See :class:`~reflex_aio.lease.LeaseStore`.

        :raises LeaseLost: if somebody else has acquired it, or it was released
        :raises TypeError: if ``lease`` is none of this table, or ``ttl`` no number
        :raises ValueError: if ``ttl`` is out of its range
        """
        self._check(lease)
        check_ttl(ttl)
        async with self._connection() as connection:
            renewed = await self._dialect.renew(self._driver, connection, lease, ttl)
        if not renewed:
            raise LeaseLost(name=lease.name, owner=lease.owner, epoch=lease.epoch)

    async def release(self, lease: Lease) -> None:
        """Give ``lease`` back. See :class:`~reflex_aio.lease.LeaseStore`.

        :raises TypeError: if ``lease`` is none of this table
        """
        self._check(lease)
        async with self._connection() as connection:
            await self._dialect.release(self._driver, connection, lease)

    async def all(self) -> Mapping[str, LeaseState]:
        """Return the state of every name that was ever acquired, held or not."""
        async with self._connection() as connection:
            rows = await self._dialect.all(self._driver, connection)
        return {name: LeaseState(owner, epoch, left) for name, owner, epoch, left in rows}

    def _check(self, lease: Lease) -> None:
        if check_fence(lease).schema != self._schema:
            raise TypeError(f"lease {lease!r} is none of {self!r}")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        with self._driver.errors(str(self._schema.table)):
            async with self._driver.acquire(self._pool) as connection:
                yield connection


def check_fence(lease: Lease) -> TableLease:
    """Return ``lease`` if a statement in its database can compare it.

    :raises TypeError: if it is none of a leases table
    """
    if not isinstance(lease, TableLease):
        raise TypeError(
            f"lease {lease!r} is a {type(lease).__name__}: accepted is one of a LeasesTable, in the same database"
        )
    return lease


async def hold_lease(driver: Driver, connection: Any, lease: Lease) -> None:
    """Keep ``lease`` from being taken until the transaction on ``connection`` ends.

    :raises LeaseLost: if it is lost already
    :raises TypeError: if it is none of a leases table
    :raises TableNotFound: if its table is in another database
    """
    for lost in (await lost_leases(driver, connection, [lease])).values():
        raise lost


async def lost_leases(driver: Driver, connection: Any, leases: Collection[Lease]) -> dict[Lease, LeaseLost]:
    """Return which of ``leases`` are lost, with what to raise; keep the others as :func:`hold_lease` does."""
    held: set[Lease] = set()
    for schema in {check_fence(lease).schema for lease in leases}:
        dialect = dialect_part(LeasesDialect, driver.dialect, schema)
        beside = [lease for lease in leases if check_fence(lease).schema == schema]
        with driver.errors(str(schema.table), schema_only=True):
            held |= await dialect.hold(driver, connection, beside)
    return {
        lease: LeaseLost(name=lease.name, owner=lease.owner, epoch=lease.epoch)
        for lease in leases
        if lease not in held
    }
