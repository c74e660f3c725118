"""The scenario of the demonstration, step by step."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

from examples import mailer
from examples.database import fetch
from examples.demo.mailer_process import MailerProcess
from examples.demo.screen import Screen
from examples.demo.traffic import Traffic
from examples.demo.verdict import Delivery, EventRow, Verdict, judge
from examples.users.schema import UserEvent, create_tables, cursors, user_events
from examples.users.search import search_spec
from examples.users.server import serving
from examples.users.service import TeamIsFull, Users
from reflex_aio import Spec, run_forever
from reflex_aio.ext.embedded import EmbeddedMariaDB, EmbeddedPostgres
from reflex_aio.sql import open_pool

__all__ = ["DATABASES", "report", "run_scenario"]

EmbeddedServer = EmbeddedPostgres | EmbeddedMariaDB

# The database servers that the scenario can run on. They are temporary, so their data need not survive a power failure.
DATABASES: Mapping[str, tuple[str, Callable[[], EmbeddedServer]]] = {
    "postgres": ("PostgreSQL", partial(EmbeddedPostgres, settings={"fsync": False})),
    "mariadb": ("MariaDB", partial(EmbeddedMariaDB, settings={"innodb_flush_method": "nosync"})),
}

# The duration of the writers in seconds, and the part of their work after which the mailer is killed and restarted.
_SECONDS = 8.0
_KILL_AT, _RESTART_AT = 0.4, 0.7
# The time in seconds without progress after which the scenario stops waiting for the consumers.
_STALL_TIMEOUT = 20.0
_POOL_SIZE = 20
# Without noops, which fill the gaps on MariaDB.
_COUNT_EVENTS = "SELECT count(*) FROM user_events WHERE type <> 0"
_EVENTS = "SELECT id, type, foreign_id FROM user_events WHERE type <> 0 ORDER BY id"


async def run_scenario(screen: Screen, *, database: str, users: int, seed: int) -> bool:
    """Run the scenario, and return whether it succeeded.

    :param database: one of :data:`DATABASES`
    :param users: the number of users who try to sign up
    :param seed: the seed of the random numbers
    """
    screen.title("reflex_aio: events for mutable SQL tables")
    name, make_server = DATABASES[database]
    screen.step(f"A private {name} server, with a database for each of two services")
    async with (
        make_server() as server,
        _database(server, "users") as users_pool,
        _database(server, "mailer") as mailer_pool,
    ):
        async with users_pool.acquire() as connection:
            version = str((await fetch(connection, "SELECT version()"))[0][0]).partition(" on ")[0]
            screen.note(f"{version} is ready")
            await create_tables(connection)
        async with mailer_pool.acquire() as connection:
            await mailer.create_tables(connection)
        await _show_an_event(screen, users_pool)

        screen.step("Two consumers run, and one of them is killed midway")
        async with (
            serving(users_pool) as port,
            MailerProcess(users=f"127.0.0.1:{port}", database=server.dsn_for("mailer")) as process,
            _running(search_spec(users_pool)),
        ):
            screen.note("search consumes from the table, in the process of the writers")
            screen.note(f"mailer (process {process.pid}) consumes over gRPC")
            await _work(screen, users_pool, mailer_pool, process, users=users, seed=seed)
            status = await process.terminate()
            screen.note(f"SIGTERM   mailer (process {process.pid}), which ended with status {status}")

        screen.step("The deliveries are compared with the committed events")
        return await _evaluate(screen, users_pool, mailer_pool) and status == 0


async def _show_an_event(screen: Screen, pool: Any) -> None:
    """Sign up three users, the second of whom is rolled back, and read the events."""
    screen.step("An event is a row, inserted in the transaction of the change it describes")
    service = Users(pool)
    open_team, full_team = await _new_teams(pool, {"open": 2, "full": 0})
    await service.sign_up(open_team, "ann@example.com")
    screen.note("COMMIT    ann has signed up: one row in users, and one in user_events")
    with suppress(TeamIsFull):
        await service.sign_up(full_team, "bob@example.com")
    screen.note("ROLLBACK  bob's team is full: both of his rows were inserted, and rolled back")
    await service.sign_up(open_team, "cyd@example.com")
    screen.note("COMMIT    cyd has signed up")
    screen.note("async for event in user_events.stream(pool, to_head=True):")
    async with user_events.stream(pool, to_head=True) as stream:
        screen.events(
            [
                (event.id, UserEvent(event.type).name, event.foreign_id, f"{event.timestamp:%H:%M:%S.%f}")
                async for event in stream
            ]
        )
    screen.note("The missing id was bob's. The stream has verified that it was rolled back and is not late.")


async def _work(
    screen: Screen,
    users_pool: Any,
    mailer_pool: Any,
    process: MailerProcess,
    *,
    users: int,
    seed: int,
) -> None:
    # One team is soon full; the transactions of users who then try to join it are rolled back.
    teams = await _new_teams(users_pool, {"red": users, "green": users, "blue": users, "tiny": users // 12})
    traffic = Traffic(Users(users_pool), teams=teams, users=users, seed=seed, seconds=_SECONDS)

    async def counts() -> tuple[int, int, int]:
        # In this order: a consumer is never shown to be ahead of the committed events.
        mailed, searched = await _consumed(mailer_pool), await _consumed(users_pool)
        return await _number(users_pool, _COUNT_EVENTS), searched, mailed

    with screen.status_line() as line:

        async def until(reached: Callable[[tuple[int, int, int]], bool]) -> tuple[int, int, int]:
            """Wait for a condition on the numbers of events: committed, consumed by search, consumed by mailer."""
            before, left = await counts(), _STALL_TIMEOUT
            while not reached(now := await counts()) and left > 0:
                left = _STALL_TIMEOUT if now != before else left - 0.05
                before = now
                line.update("committed {} · search {} · mailer {}".format(*now))
                await asyncio.sleep(0.05)
            return now

        async with asyncio.TaskGroup() as group:
            writing = group.create_task(traffic.run())
            screen.note(f"{users} users try to sign up, by 8 writers; one team is soon full")
            committed, _, mailed = await until(lambda now: traffic.progress >= _KILL_AT and now[2] > 0)
            await process.kill()
            screen.note(
                f"KILL -9   mailer (process {process.pid}), which has consumed {mailed} of {committed} events"
            )
            committed, searched, mailed = await until(lambda _: traffic.progress >= _RESTART_AT)
            screen.note(
                f"the writers continue: {committed} events committed, {searched} consumed by search, {mailed} by mailer"
            )
            await process.start()
            screen.note(f"START     mailer (process {process.pid}), which continues from its stored cursor")
            await writing
            screen.note(
                f"the writers have finished; {traffic.rolled_back} of their transactions were rolled back"
            )
            committed, searched, mailed = await until(lambda now: now[0] == now[1] == now[2])
            screen.note(f"search has consumed {searched} and mailer {mailed} of {committed} events")


async def _evaluate(screen: Screen, users_pool: Any, mailer_pool: Any) -> bool:
    committed = [EventRow(*row) for row in await _rows(users_pool, _EVENTS)]
    changes = await _number(users_pool, "SELECT sum(version) FROM users")
    mails = await _number(mailer_pool, "SELECT count(*) FROM mails")
    verdicts = [
        await _verdict("search", users_pool, committed),
        await _verdict("mailer", mailer_pool, committed),
    ]
    screen.note(f"{changes} changes of users were committed, with {len(committed)} events")
    rolled_back = committed[-1].id - len(committed) if committed else 0
    screen.note(f"{rolled_back} more events were inserted in between, and rolled back with their changes")
    screen.note(
        f"{verdicts[1].repeated} events were delivered to mailer again after the kill; it has {mails} mails, one each"
    )
    screen.verdicts(verdicts)
    return report(screen, verdicts, changes=changes, mails=mails)


def report(screen: Screen, verdicts: list[Verdict], *, changes: int, mails: int) -> bool:
    """Print the outcome, and return whether the scenario succeeded.

    :param changes: the number of committed changes of users
    :param mails: the number of mails
    """
    failed = [verdict.consumer for verdict in verdicts if not verdict.passed]
    if failed:
        screen.failure(f"not every event was delivered, in order: {', '.join(failed)}")
    elif {changes, mails} != {verdicts[0].committed}:
        screen.failure(
            f"{changes} changes, {verdicts[0].committed} events, {mails} mails: the numbers should be equal"
        )
    else:
        screen.success(
            "each consumer received every committed event, in order, and none that was rolled back"
        )
        return True
    return False


async def _verdict(consumer: str, pool: Any, committed: list[EventRow]) -> Verdict:
    rows = await _rows(
        pool,
        "SELECT process, event_id, type, foreign_id FROM deliveries WHERE consumer = %s ORDER BY number",
        consumer,
    )
    deliveries = [Delivery(process, EventRow(*event)) for process, *event in rows]
    async with pool.acquire() as connection:
        return judge(consumer, committed, deliveries, await cursors.get(connection, consumer))


async def _consumed(pool: Any) -> int:
    return await _number(pool, "SELECT count(DISTINCT event_id) FROM deliveries")


async def _rows(pool: Any, statement: str, *arguments: object) -> Sequence[Sequence[Any]]:
    async with pool.acquire() as connection:
        return await fetch(connection, statement, *arguments)


async def _number(pool: Any, statement: str) -> int:
    return int((await _rows(pool, statement))[0][0])


async def _new_teams(pool: Any, seats: dict[str, int]) -> list[int]:
    """Create teams with these names and numbers of free seats, and return their ids."""
    insert = "INSERT INTO teams (name, free_seats) VALUES (%s, %s) RETURNING id"
    return [(await _rows(pool, insert, name, count))[0][0] for name, count in seats.items()]


@asynccontextmanager
async def _database(server: EmbeddedServer, name: str) -> AsyncIterator[Any]:
    """Create a database, and yield a pool of connections to it."""
    async with open_pool(server.dsn, size=1) as pool:
        await _rows(pool, f"CREATE DATABASE {name}")
    async with open_pool(server.dsn_for(name), size=_POOL_SIZE) as pool:
        # Connect in advance: on Python 3.11, a cancellation during asyncmy's connect may be lost, as asyncio.wait_for
        # returns the connection instead. A lost cancellation would let an interrupted scenario continue.
        async with AsyncExitStack() as stack:
            for _ in range(_POOL_SIZE):
                await stack.enter_async_context(pool.acquire())
        yield pool


@asynccontextmanager
async def _running(spec: Spec) -> AsyncIterator[None]:
    """Run a consumer in the background."""
    consuming = asyncio.create_task(run_forever(spec))
    try:
        yield
    finally:
        consuming.cancel()
        with suppress(asyncio.CancelledError):
            await consuming
