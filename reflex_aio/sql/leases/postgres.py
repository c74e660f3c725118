"""The statements on a leases table in PostgreSQL."""

from collections.abc import Collection, Sequence
from typing import Any

from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.leases.store import LeaseKey, LeasesDialect
from reflex_aio.sql.schema.names import LeasesSchema

__all__ = ["PostgresLeasesDialect"]


class PostgresLeasesDialect(LeasesDialect):
    """The leases of one table in PostgreSQL."""

    def __init__(self, schema: LeasesSchema) -> None:
        table = schema.table.quoted('"')
        # Not now(), the start of the transaction: the statement may have to wait for another transaction to end.
        now = "clock_timestamp()"
        later = f"{now} + {{}}::float8 * interval '1 second'"
        this = "id = $1 AND owner = $2 AND epoch = $3"
        self._acquire = (
            f"INSERT INTO {table} AS lease (id, owner, epoch, expires_at) VALUES ($1, $2, 1, {later.format('$3')})"
            f" ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, expires_at = {later.format('$3')},"
            f" epoch = lease.epoch + (lease.owner <> excluded.owner OR lease.expires_at <= {now})::int"
            f" WHERE lease.owner IN ('', excluded.owner) OR lease.expires_at <= {now} RETURNING epoch"
        )
        self._renew = f"UPDATE {table} SET expires_at = {later.format('$4')} WHERE {this} RETURNING 1"
        # SKIP LOCKED: the transaction of an atomic consumer holds its lease for as long as its handler runs.
        self._renew_many = (
            f"WITH held AS MATERIALIZED (SELECT id FROM {table}"
            " WHERE (id, owner, epoch) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::int8[]))"
            " FOR NO KEY UPDATE SKIP LOCKED)"
            f" UPDATE {table} AS lease SET expires_at = {later.format('$4')} FROM held WHERE lease.id = held.id"
            " RETURNING lease.id::text, lease.owner::text, lease.epoch::int8"
        )
        self._release = f"UPDATE {table} SET owner = '', expires_at = {now} WHERE {this}"
        seconds_left = f"extract(epoch FROM expires_at - {now})::float8"
        self._all = f"SELECT id::text, owner::text, epoch::int8, {seconds_left} FROM {table} ORDER BY 1"
        # At READ COMMITTED, the statement waits for a row that another transaction has locked, and then compares the
        # row's new version. The order of names prevents deadlocks with other statements that lock several rows.
        self._hold = (
            f"SELECT id::text, owner::text, epoch::int8 FROM {table} AS lease"
            " WHERE (id, owner, epoch) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::int8[]))"
            " ORDER BY lease.id FOR SHARE"
        )

    async def acquire(self, driver: Driver, connection: Any, name: str, owner: str, ttl: float) -> int | None:
        rows = await driver.fetch(connection, self._acquire, name, owner, float(ttl))
        return int(rows[0][0]) if rows else None

    async def renew(self, driver: Driver, connection: Any, key: LeaseKey, ttl: float) -> bool:
        return bool(await driver.fetch(connection, self._renew, *key, float(ttl)))

    async def renew_many(
        self, driver: Driver, connection: Any, keys: Collection[LeaseKey], ttl: float
    ) -> set[LeaseKey]:
        columns = map(list, zip(*keys, strict=True))
        rows = await driver.fetch(connection, self._renew_many, *columns, float(ttl))
        return {(row[0], row[1], row[2]) for row in rows}

    async def release(self, driver: Driver, connection: Any, key: LeaseKey) -> None:
        await driver.fetch(connection, self._release, *key)

    async def all(self, driver: Driver, connection: Any) -> Sequence[tuple[str, str, int, float]]:
        return [(row[0], row[1], row[2], row[3]) for row in await driver.fetch(connection, self._all)]

    async def hold(self, driver: Driver, connection: Any, keys: Collection[LeaseKey]) -> set[LeaseKey]:
        rows = await driver.fetch(connection, self._hold, *map(list, zip(*keys, strict=True)))
        return {(row[0], row[1], row[2]) for row in rows}
