"""PostgreSQL: lending leases, and comparing them."""

from collections.abc import Collection, Sequence
from typing import Any

from reflex_aio.lease import Lease
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.leases.dialect import LeasesDialect
from reflex_aio.sql.schema.names import LeasesSchema

__all__ = ["PostgresLeasesDialect"]


class PostgresLeasesDialect(LeasesDialect):
    """The leases of one table."""

    def __init__(self, schema: LeasesSchema) -> None:
        table = schema.table.quoted('"')
        # Not now(), the beginning of the transaction: a statement may wait for another one's end.
        later = "clock_timestamp() + {} * interval '1 second'"
        this = "id = $1 AND owner = $2 AND epoch = $3"
        self._acquire = (
            f"INSERT INTO {table} AS lent (id, owner, epoch, expires_at)"
            f" VALUES ($1, $2, 1, {later.format('$3::float8')})"
            f" ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, expires_at = {later.format('$3::float8')},"
            f" epoch = lent.epoch"
            f" + (lent.owner <> excluded.owner OR lent.expires_at <= clock_timestamp())::int"
            f" WHERE lent.owner IN ('', excluded.owner) OR lent.expires_at <= clock_timestamp()"
            f" RETURNING epoch"
        )
        self._renew = f"UPDATE {table} SET expires_at = {later.format('$4::float8')} WHERE {this} RETURNING 1"
        self._release = f"UPDATE {table} SET owner = '', expires_at = clock_timestamp() WHERE {this}"
        left = "extract(epoch FROM expires_at - clock_timestamp())::float8"
        self._all = f"SELECT id::text, owner::text, epoch::int8, {left} FROM {table} ORDER BY 1"
        # At READ COMMITTED, a row that another transaction holds is waited for and looked at anew. In the order of
        # names, as others do.
        self._hold = (
            f"SELECT id::text, owner::text, epoch::int8 FROM {table}"
            f" WHERE (id, owner, epoch) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::int8[]))"
            f" ORDER BY id FOR SHARE"
        )

    async def acquire(self, driver: Driver, connection: Any, name: str, owner: str, ttl: float) -> int | None:
        rows = await driver.fetch(connection, self._acquire, name, owner, float(ttl))
        return int(rows[0][0]) if rows else None

    async def renew(self, driver: Driver, connection: Any, lease: Lease, ttl: float) -> bool:
        return bool(await driver.fetch(connection, self._renew, *_key(lease), float(ttl)))

    async def release(self, driver: Driver, connection: Any, lease: Lease) -> None:
        await driver.fetch(connection, self._release, *_key(lease))

    async def all(self, driver: Driver, connection: Any) -> Sequence[tuple[str, str, int, float]]:
        return [(row[0], row[1], row[2], row[3]) for row in await driver.fetch(connection, self._all)]

    async def hold(self, driver: Driver, connection: Any, leases: Collection[Lease]) -> set[Lease]:
        keys = [list(column) for column in zip(*map(_key, leases), strict=True)]
        held = {tuple(row) for row in await driver.fetch(connection, self._hold, *keys)}
        return {lease for lease in leases if _key(lease) in held}


def _key(lease: Lease) -> tuple[str, str, int]:
    return lease.name, lease.owner, lease.epoch
