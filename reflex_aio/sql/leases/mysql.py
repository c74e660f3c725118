"""The statements on a leases table in MySQL and MariaDB."""

from collections.abc import Collection, Sequence
from typing import Any

from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.leases.store import LeaseKey, LeasesDialect
from reflex_aio.sql.schema.names import LeasesSchema

__all__ = ["MysqlLeasesDialect"]

_MICROSECONDS = 1_000_000


class MysqlLeasesDialect(LeasesDialect):
    """The leases of one table in MySQL or MariaDB."""

    def __init__(self, schema: LeasesSchema) -> None:
        table = schema.table.quoted("`")
        # The same in every session's time zone. It is the start of the statement: if the statement has to wait, the
        # lease expires earlier by that time.
        now = "UTC_TIMESTAMP(6)"
        later = f"{now} + INTERVAL %s MICROSECOND"
        this = "id = %s AND owner = %s AND epoch = %s"
        # Assignments are evaluated from left to right: the epoch comes first, because it depends on the old owner and
        # time. With LAST_INSERT_ID(x), an UPDATE returns x.
        self._take_over = (
            f"UPDATE {table} SET epoch = LAST_INSERT_ID(epoch + IF(owner = %s AND expires_at > {now}, 0, 1)),"
            f" owner = %s, expires_at = {later}"
            f" WHERE id = %s AND (owner IN ('', %s) OR expires_at <= {now})"
        )
        self._insert = (
            f"INSERT IGNORE INTO {table} (id, owner, epoch, expires_at) VALUES (%s, %s, 1, {later})"
        )
        self._renew = f"UPDATE {table} SET expires_at = {later} WHERE {this}"
        # An UPDATE cannot skip locked rows, such as those that the transactions of atomic consumers hold for as long as
        # their handlers run. No row of others is locked: the names are those of existing rows, by the primary key.
        self._lock_many = (
            f"SELECT id, owner, epoch FROM {table} FORCE INDEX (PRIMARY) WHERE id IN ({{}})"
            " FOR UPDATE SKIP LOCKED"
        )
        self._renew_many = f"UPDATE {table} FORCE INDEX (PRIMARY) SET expires_at = {later} WHERE id IN ({{}})"
        self._release = f"UPDATE {table} SET owner = '', expires_at = {now} WHERE {this}"
        left = f"TIMESTAMPDIFF(MICROSECOND, {now}, expires_at)"
        self._all = f"SELECT id, owner, epoch, {left} FROM {table} ORDER BY 1"
        # A locking read sees committed rows at every isolation level. The order of names prevents deadlocks with other
        # statements that lock several rows.
        self._hold = (
            f"SELECT id, owner, epoch FROM {table} AS lease WHERE id IN ({{}})"
            " ORDER BY lease.id LOCK IN SHARE MODE"
        )

    async def acquire(self, driver: Driver, connection: Any, name: str, owner: str, ttl: float) -> int | None:
        duration = round(ttl * _MICROSECONDS)
        done = (await driver.fetch(connection, self._take_over, owner, owner, duration, name, owner))[0]
        if done[0]:
            return int(done[1])
        # Either the name is new, or another owner holds it, and this statement does nothing.
        done = (await driver.fetch(connection, self._insert, name, owner, duration))[0]
        return 1 if done[0] else None

    async def renew(self, driver: Driver, connection: Any, key: LeaseKey, ttl: float) -> bool:
        duration = round(ttl * _MICROSECONDS)
        return bool((await driver.fetch(connection, self._renew, duration, *key))[0][0])

    async def renew_many(
        self, driver: Driver, connection: Any, keys: Collection[LeaseKey], ttl: float
    ) -> set[LeaseKey]:
        names = sorted({name for name, _, _ in keys})
        async with driver.begin(connection):
            rows = await driver.fetch(connection, self._lock_many.format(_placeholders(names)), *names)
            held = {(row[0], row[1], int(row[2])) for row in rows}.intersection(keys)
            if held:
                names = sorted(name for name, _, _ in held)
                duration = round(ttl * _MICROSECONDS)
                await driver.fetch(
                    connection, self._renew_many.format(_placeholders(names)), duration, *names
                )
        return held

    async def release(self, driver: Driver, connection: Any, key: LeaseKey) -> None:
        await driver.fetch(connection, self._release, *key)

    async def all(self, driver: Driver, connection: Any) -> Sequence[tuple[str, str, int, float]]:
        rows = await driver.fetch(connection, self._all)
        return [(row[0], row[1], int(row[2]), row[3] / _MICROSECONDS) for row in rows]

    async def hold(self, driver: Driver, connection: Any, keys: Collection[LeaseKey]) -> set[LeaseKey]:
        names = sorted({name for name, _, _ in keys})
        statement = self._hold.format(_placeholders(names))
        rows = await driver.fetch(connection, statement, *names)
        return {(row[0], row[1], int(row[2])) for row in rows}.intersection(keys)


def _placeholders(arguments: Collection[object]) -> str:
    return ", ".join(["%s"] * len(arguments))
