"""The privileges that the documents name are enough for everything, and each of them is needed."""

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from reflex_aio import Backoff, Consumer, Event, Spec, run
from reflex_aio.patterns import DeadLetterConsumer
from reflex_aio.sql import (
    AtomicConsumer,
    AttemptsTable,
    CursorsTable,
    ErrorsTable,
    EventsTable,
    LeasesTable,
    Retention,
)
from tests.docs.documents import CHECKOUT, blocks
from tests.fix_backends import Backend

pytestmark = [pytest.mark.asyncio, pytest.mark.one_library]

user_events, cursors, leases = EventsTable("user_events"), CursorsTable("cursors"), LeasesTable("leases")
attempts, errors = AttemptsTable("consumer_attempts"), ErrorsTable()

_GRANT = re.compile(r"^GRANT (.*) ON ((?:SEQUENCE )?\w+) TO (\w+);$", re.MULTILINE)
AT_ONCE = Backoff(initial=0.001, maximum=0.001)


@dataclass(frozen=True)
class Grant:
    """One privilege on one table."""

    privilege: str
    table: str
    role: str


# Without them a stream warns: it goes on without the sequence, and waits at a gap that it can't fill on MySQL.
_LOGGED = [
    *(Grant("SELECT", "SEQUENCE user_events_id_seq", role) for role in ("consumer", "operator")),
    Grant("INSERT", "user_events", "consumer"),
]


@dataclass(frozen=True)
class Roles:
    """Tables, and roles that were granted what the document says."""

    backend: Backend
    owner: Any
    names: dict[str, str]
    grants: list[Grant]

    async def grant(self, grant: Grant) -> None:
        await self._run(f"GRANT {grant.privilege} ON {grant.table} TO {self.names[grant.role]}")

    async def revoke(self, grant: Grant) -> None:
        await self._run(f"REVOKE {grant.privilege} ON {grant.table} FROM {self.names[grant.role]}")

    async def _run(self, statement: str) -> None:
        await self.backend.fetch(self.owner, statement)

    def pool(self, role: str) -> AbstractAsyncContextManager[Any]:
        """Open a pool of a role's connections."""
        name = self.names[role]
        if self.backend.dialect == "postgres":
            return self.backend.pool(3, server_settings={"role": name})
        return self.backend.pool(3, user=name.split("'")[1])


@pytest_asyncio.fixture
async def roles(backend: Backend) -> AsyncIterator[Roles]:
    owner = await backend.connect()
    for table in (user_events, cursors, leases, attempts, errors):
        await table.create(owner)
    postgres = backend.dialect == "postgres"
    document, language = ("postgresql.md", "sql") if postgres else ("mysql.md", "mysql")
    [code] = [block.code for block in blocks(CHECKOUT / "docs" / document, language) if "GRANT" in block.code]
    # All that the block consists of.
    assert not _GRANT.sub("", re.sub("^--.*$", "", code, flags=re.MULTILINE)).strip()
    # Roles belong to the server, so have odd names.
    names = {
        role: f"{role}_{secrets.token_hex(4)}"
        if postgres
        else f"'{role[0]}_{secrets.token_hex(4)}'@'localhost'"
        for role in ("writer", "consumer", "operator")
    }
    grants = [
        Grant(privilege, table, role)
        for privileges, table, role in _GRANT.findall(code)
        for privilege in privileges.split(", ")
    ]
    roles = Roles(backend, owner, names, grants)
    for name in names.values():
        await backend.fetch(owner, f"CREATE {'ROLE' if postgres else 'USER'} {name}")
    for grant in grants:
        await roles.grant(grant)
    yield roles
    for name in names.values():
        if postgres:
            await backend.fetch(owner, f"DROP OWNED BY {name}")
        await backend.fetch(owner, f"DROP {'ROLE' if postgres else 'USER'} {name}")


# All that each of them does.


async def write(pool: Any, roles: Roles) -> None:
    driver = roles.backend.driver
    async with driver.acquire(pool) as connection:
        await user_events.insert(connection, 1, 1)
        await user_events.insert_many(connection, [(2, 1), (3, 1)])
        await user_events.wake(connection)
        try:
            async with driver.transaction(connection):
                await user_events.insert(connection, 4, 1)
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        await user_events.insert(connection, 5, 1)


async def consume(pool: Any, roles: Roles) -> None:
    source, failing = user_events.source(pool), True
    handled: list[str] = []

    async def handle(event: Event) -> None:
        handled.append(event.foreign_id)

    async def fail(event: Event) -> None:
        if failing:
            raise ValueError(event.foreign_id)

    async def write(event: Event, connection: Any) -> None:
        handled.append(event.foreign_id)

    for store in cursors.store(pool), cursors.store(pool, flush_every=10.0):
        await run(Spec(source, store, Consumer("c", handle), to_head=True))
        await store.rewind("c", "")
        assert await store.all() == {}
    assert handled == ["1", "2", "3", "5"] * 2

    lease = await leases.store(pool).acquire("atomic", "me", ttl=60.0)
    assert lease is not None
    await leases.store(pool).renew(lease, ttl=60.0)
    atomic = Spec(source, cursors.store(pool), AtomicConsumer("atomic", write), to_head=True)
    await run(atomic.fenced(lease))
    await leases.store(pool).release(lease)
    assert (await leases.store(pool).all())["atomic"].owner == ""
    await cursors.store(pool).rewind("atomic", "")

    recorder = errors.recorder(pool)
    dead = DeadLetterConsumer("dead", fail, recorder, retries=2)
    kept = attempts.store(pool)
    counts = []
    while True:
        # The first two attempts at each event fail, and the third is recorded as a dead letter.
        try:
            await run(
                Spec(source, cursors.store(pool), dead, to_head=True, attempts=kept, retry_backoff=AT_ONCE)
            )
            break
        except ValueError:
            counts += [attempt.count for attempt in (await kept.get("dead")).values()]
    assert counts == [1, 2] * 4
    assert await kept.get("dead") == {}
    await cursors.store(pool).rewind("dead", "")
    async with roles.backend.driver.acquire(pool) as connection:
        recorded = await errors.find(connection)
        assert len(recorded) == 4
        await errors.record(connection, consumer="dead", event=Event("1", 1, "1", 0), error=ValueError())
    failing = False
    assert await errors.replay(pool, recorded[0].id, source=source, handler=fail)
    async with errors.events.stream(pool, to_head=True) as stream:
        assert len([event async for event in stream]) >= 5


async def divide(event: Event) -> None:
    raise ZeroDivisionError(event.id)


async def operate(pool: Any, roles: Roles) -> None:
    store = cursors.store(pool)
    async with roles.backend.driver.acquire(pool) as connection:
        await user_events.extent(connection)
        await user_events.backlogs(connection, ["", "1"])
        await cursors.states(connection)
        [error, *_] = await errors.find(connection)
        await errors.mark(connection, error.id, 7)
        await errors.resolve(connection, error.id)
    with pytest.raises(ZeroDivisionError):
        await errors.replay(pool, error.id, source=user_events.source(pool), handler=divide)
    await leases.store(pool).all()
    for cursor in "3", "", "5":
        await store.rewind("c", cursor)
    async with user_events.stream(pool, to_head=True) as stream:
        assert (await anext(stream)).id
    await user_events.prune(pool, Retention(before="3", cursors=store), pause=0.0)


DOES: dict[str, Callable[[Any, Roles], Awaitable[None]]] = {
    "writer": write,
    "consumer": consume,
    "operator": operate,
}


async def do_everything(roles: Roles) -> None:
    for role, does in DOES.items():
        async with roles.pool(role) as pool:
            await does(pool, roles)


async def test_the_privileges_that_are_named_suffice_for_everything(roles: Roles) -> None:
    await do_everything(roles)


async def test_each_privilege_that_is_named_is_needed(roles: Roles) -> None:
    await do_everything(roles)
    superfluous = []
    for grant in roles.grants:
        if grant in _LOGGED:
            continue
        await roles.revoke(grant)
        await empty_tables(roles)
        try:
            await do_everything(roles)
        except Exception:  # Whatever the database or the library calls it.
            pass
        else:
            superfluous.append(grant)
        await roles.grant(grant)
    assert superfluous == []


async def empty_tables(roles: Roles) -> None:
    """Empty all tables, as if nothing had been done."""
    for table in (
        "user_events",
        "cursors",
        "leases",
        "consumer_attempts",
        "consumer_errors",
        "consumer_errors_events",
    ):
        if roles.backend.dialect == "postgres":
            await roles.backend.fetch(roles.owner, f"TRUNCATE {table} RESTART IDENTITY")
        else:
            await roles.backend.fetch(roles.owner, f"TRUNCATE TABLE {table}")
