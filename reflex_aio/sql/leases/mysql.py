"""MySQL and MariaDB: lending leases, and comparing them."""

from collections.abc import Collection, Sequence
from typing import Any

from reflex_aio.lease import Lease
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.leases.dialect import LeasesDialect
from reflex_aio.sql.schema.names import LeasesSchema

__all__ = ["MysqlLeasesDialect"]

_MICROSECONDS = 1_000_000


class MysqlLeasesDialect(LeasesDialect):
    """The leases of one table."""

    def __init__(self, schema: LeasesSchema) -> None:
        table = schema.table.quoted("`")
        # The same in every session's time zone. It is the statement's beginning: one that waits lends for less.
        now = "UTC_TIMESTAMP(6)"
        later = f"{now} + INTERVAL %s MICROSECOND"
        this = "id = %s AND owner = %s AND epoch = %s"
        # Assignments are made from left to right, so the epoch's comes first. LAST_INSERT_ID(x) is how an UPDATE
        # returns x.
        self._take = (
            f"UPDATE {table}"
            f" SET epoch = LAST_INSERT_ID(epoch + IF(owner = %s AND expires_at > {now}, 0, 1)),"
            f" owner = %s, expires_at = {later}"
            f" WHERE id = %s AND (owner IN ('', %s) OR expires_at <= {now})"
        )
        self._begin = f"INSERT IGNORE INTO {table} (id, owner, epoch, expires_at) VALUES (%s, %s, 1, {later})"
        self._renew = f"UPDATE {table} SET expires_at = {later} WHERE {this}"
        self._release = f"UPDATE {table} SET owner = '', expires_at = {now} WHERE {this}"
        left = f"TIMESTAMPDIFF(MICROSECOND, {now}, expires_at)"
        self._all = f"SELECT id, owner, epoch, {left} FROM {table} ORDER BY 1"
        # A locking read sees what is committed, at every isolation level. In the order of names, as others do.
        self._hold = f"SELECT id, owner, epoch FROM {table} WHERE id IN ({{}}) ORDER BY id LOCK IN SHARE MODE"

    async def acquire(self, driver: Driver, connection: Any, name: str, owner: str, ttl: float) -> int | None:
        lasting = round(ttl * _MICROSECONDS)
        done = (await driver.fetch(connection, self._take, owner, owner, lasting, name, owner))[0]
        if done[0]:
            return int(done[1])
        # There is no such name, or somebody else holds it: then this does nothing.
        done = (await driver.fetch(connection, self._begin, name, owner, lasting))[0]
        return 1 if done[0] else None

    async def renew(self, driver: Driver, connection: Any, lease: Lease, ttl: float) -> bool:
        lasting = round(ttl * _MICROSECONDS)
        return bool((await driver.fetch(connection, self._renew, lasting, *_key(lease)))[0][0])

    async def release(self, driver: Driver, connection: Any, lease: Lease) -> None:
        await driver.fetch(connection, self._release, *_key(lease))

    async def all(self, driver: Driver, connection: Any) -> Sequence[tuple[str, str, int, float]]:
        rows = await driver.fetch(connection, self._all)
        return [(row[0], row[1], int(row[2]), row[3] / _MICROSECONDS) for row in rows]

    async def hold(self, driver: Driver, connection: Any, leases: Collection[Lease]) -> set[Lease]:
        names = sorted({lease.name for lease in leases})
        statement = self._hold.format(", ".join(["%s"] * len(names)))
        held = {(row[0], row[1], int(row[2])) for row in await driver.fetch(connection, statement, *names)}
        return {lease for lease in leases if _key(lease) in held}


def _key(lease: Lease) -> tuple[str, str, int]:
    return lease.name, lease.owner, lease.epoch
