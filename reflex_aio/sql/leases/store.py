"""The leases table, the lease store on it, and fencing with its leases in a transaction."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache, partial
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from reflex_aio.errors import LeaseLost
from reflex_aio.lease import Lease, LeaseState, LeaseStore, check_lease, check_ttl
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.schema.names import LeasesSchema, Name
from reflex_aio.sql.schema.table import Table, TableStore

__all__ = [
    "LeaseKey",
    "LeasesDialect",
    "LeasesTable",
    "TableLease",
    "TableLeaseStore",
    "check_fence",
    "hold_leases",
]

T = TypeVar("T")


LeaseKey: TypeAlias = tuple[str, str, int]
"""The name, owner and epoch of a lease."""


class LeasesDialect(ABC):
    """The statements on a leases table in one database. It has no state but their texts.

    A row is never deleted, because its epoch must keep counting up; the owner of a released name is ``""``. Only the
    database's clock counts.
    """

    @abstractmethod
    def __init__(self, schema: LeasesSchema) -> None: ...

    @abstractmethod
    async def acquire(self, driver: Driver, connection: Any, name: str, owner: str, ttl: float) -> int | None:
        """Acquire ``name`` for ``ttl`` seconds, and return the epoch; ``None`` if another owner holds it."""

    @abstractmethod
    async def renew(self, driver: Driver, connection: Any, key: LeaseKey, ttl: float) -> bool:
        """Let a lease expire in ``ttl`` seconds from now; return whether it had not been lost."""

    @abstractmethod
    async def renew_many(
        self, driver: Driver, connection: Any, keys: Collection[LeaseKey], ttl: float
    ) -> set[LeaseKey]:
        """Let leases expire in ``ttl`` seconds from now, and return which of them had not been lost.

        It waits for no other transaction. A lease that another one has locked is not renewed.
        """

    @abstractmethod
    async def release(self, driver: Driver, connection: Any, key: LeaseKey) -> None:
        """Release a lease, unless it is lost."""

    @abstractmethod
    async def all(self, driver: Driver, connection: Any) -> Sequence[tuple[str, str, int, float]]:
        """Return the name, owner, epoch and remaining seconds of every lease."""

    @abstractmethod
    async def hold(self, driver: Driver, connection: Any, keys: Collection[LeaseKey]) -> set[LeaseKey]:
        """Return the leases that are not lost, and lock them until the transaction on ``connection`` ends.

        Statements that acquire their names wait for that. If such a statement is under way, this one waits for it.
        """


@dataclass(frozen=True, slots=True)
class TableLease(Lease):
    """A lease of a leases table."""

    schema: LeasesSchema = field(repr=False)


class TableLeaseStore(TableStore[LeasesDialect], LeaseStore):
    """Keeps leases in a table, through a pool. Only the database's clock counts.

    :meth:`LeasesTable.store <reflex_aio.sql.LeasesTable.store>` makes it. Its methods also raise
    :class:`~reflex_aio.errors.ConnectionLost`, :class:`~reflex_aio.errors.TableNotFound`,
    :class:`~reflex_aio.errors.SchemaError` and, for any other failure that the database reports,
    :class:`~reflex_aio.errors.DatabaseError`.

    While it is entered, it keeps a connection of the pool to renew and to list leases, unless it is the pool's last. It
    takes the connection when the pool can spare one: from then on, leases are renewed also while the pool is exhausted.
    """

    lease_type: type[Lease] = TableLease

    def __init__(self, table: Table[LeasesSchema], pool: Any) -> None:
        super().__init__(table, pool, LeasesDialect)
        self._schema = table.schema
        self._entered = 0
        self._reserved: PinnedConnection | None = None

    async def __aenter__(self) -> Self:
        self._entered += 1
        if self._reserved is None:
            self._reserved = PinnedConnection(
                self._driver,
                self._pool,
                table=self._table.name,
                timeout=self._driver.statement_timeout,
                reserve=True,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered -= 1
        if not self._entered and self._reserved is not None:
            reserved, self._reserved = self._reserved, None
            await reserved.aclose()

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        """Acquire ``name`` for ``owner``, or return ``None`` if another owner holds it.

        See :meth:`LeaseStore.acquire <reflex_aio.lease.LeaseStore.acquire>`.

        :raises TypeError: if an argument has the wrong type
        :raises ValueError: if an argument is out of range
        """
        check_lease(name, owner)
        check_ttl(ttl)
        async with self._connection() as connection:
            epoch = await self._dialect.acquire(self._driver, connection, name, owner, ttl)
        return None if epoch is None else TableLease(name, owner, epoch, self._schema)

    async def renew(self, lease: Lease, *, ttl: float) -> None:
        """Let ``lease`` expire in ``ttl`` seconds from now.

        See :meth:`LeaseStore.renew <reflex_aio.lease.LeaseStore.renew>`.

        :raises LeaseLost: if another owner has acquired it, or it was released
        :raises TypeError: if ``lease`` is not a lease of this table, or ``ttl`` is not a number
        :raises ValueError: if ``ttl`` is out of range
        """
        key = self._key(lease)
        check_ttl(ttl)
        async with self._connection() as connection:
            renewed = await self._dialect.renew(self._driver, connection, key, ttl)
        if not renewed:
            raise _lost(lease)

    async def renew_many(self, leases: Collection[Lease], *, ttl: float) -> Mapping[Lease, Exception]:
        """Let each of ``leases`` expire in ``ttl`` seconds from now, and return the errors of those not renewed.

        One transaction renews all leases that no other transaction has locked. See
        :meth:`LeaseStore.renew_many <reflex_aio.lease.LeaseStore.renew_many>`.

        :raises TypeError: if ``leases`` contains another than of this table, or ``ttl`` is not a number
        :raises ValueError: if ``ttl`` is out of range
        """
        keys = {self._key(lease): lease for lease in leases}
        check_ttl(ttl)
        if not keys:
            return {}

        async def renew(connection: Any) -> set[LeaseKey]:
            return await self._dialect.renew_many(self._driver, connection, keys, ttl)

        renewed = await self._use(renew)
        # Those that are lost, and those that another transaction has locked, for which this waits.
        return await super().renew_many([keys[key] for key in keys.keys() - renewed], ttl=ttl)

    async def release(self, lease: Lease) -> None:
        """Release ``lease``, so that the name can be acquired at once. Does nothing if the lease is lost.

        :raises TypeError: if ``lease`` is not a lease of this table
        """
        key = self._key(lease)
        async with self._connection() as connection:
            await self._dialect.release(self._driver, connection, key)

    async def all(self) -> Mapping[str, LeaseState]:
        """Return the state of every name that was ever acquired, held or not."""
        rows = await self._use(partial(self._dialect.all, self._driver))
        return {name: LeaseState(owner, epoch, seconds_left) for name, owner, epoch, seconds_left in rows}

    async def _use(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Return the result of ``work(connection)``, on the reserved connection if there is one."""
        if self._reserved is not None:
            return await self._reserved.use(work)
        async with self._connection() as connection:
            return await work(connection)

    def _key(self, lease: Lease) -> LeaseKey:
        if check_fence(lease).schema != self._schema:
            raise TypeError(f"lease {lease!r} is not a lease of {self!r}")
        return lease.name, lease.owner, lease.epoch


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


def check_fence(lease: Lease) -> TableLease:
    """Return ``lease``, which a statement in its database can compare.

    :raises TypeError: if it is not a lease of a leases table
    """
    if not isinstance(lease, TableLease):
        raise TypeError(
            f"lease {lease!r} is a {type(lease).__name__}: accepted is one of a LeasesTable, in the same database"
        )
    return lease


async def hold_leases(
    driver: Driver, connection: Any, leases: Collection[TableLease]
) -> dict[TableLease, LeaseLost]:
    """Lock leases, so that no other owner acquires their names before the transaction on ``connection`` ends.

    :return: the leases that are lost already, each with the error to raise
    :raises TableNotFound: if a leases table is in another database
    """
    lost: dict[TableLease, LeaseLost] = {}
    for schema in {lease.schema for lease in leases}:
        dialect, errors = _fencing(driver, schema)
        keys = {(lease.name, lease.owner, lease.epoch): lease for lease in leases if lease.schema == schema}
        with errors:
            held = await dialect.hold(driver, connection, keys)
        for key in keys.keys() - held:
            lost[keys[key]] = _lost(keys[key])
    return lost


@cache
def _fencing(driver: Driver, schema: LeasesSchema) -> tuple[LeasesDialect, AbstractContextManager[None]]:
    # Cached, as a fenced cursor store needs it for every event.
    dialect = dialect_part(LeasesDialect, driver.dialect, schema)
    return dialect, driver.errors(str(schema.table), schema_only=True)


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(name=lease.name, owner=lease.owner, epoch=lease.epoch)
