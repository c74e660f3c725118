"""The story that the demonstration tells."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
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

__all__ = ["DATABASES", "report", "tell"]

EmbeddedServer = EmbeddedPostgres | EmbeddedMariaDB

# The servers that the story can be told with. They last as long as it: there is nothing to be kept from a power cut.
DATABASES: Mapping[str, tuple[str, Callable[[], EmbeddedServer]]] = {
    "postgres": ("PostgreSQL", partial(EmbeddedPostgres, settings={"fsync": False})),
    "mariadb": ("MariaDB", partial(EmbeddedMariaDB, settings={"innodb_flush_method": "nosync"})),
}

# How long the writers take, and how much they have done when the mailer is killed and when it is started again.
_SECONDS = 8.0
_KILL_AT, _RESTART_AT = 0.4, 0.7
# How long consumers may go without consuming anything before they are judged as they are, in seconds.
_PATIENCE = 20.0
# Noops aside, which fill the gaps on MariaDB.
_COUNT_EVENTS = "SELECT count(*) FROM user_events WHERE type <> 0"
_EVENTS = "SELECT id, type, foreign_id FROM user_events WHERE type <> 0 ORDER BY id"


async def tell(screen: Screen, *, database: str, users: int, seed: int) -> bool:
    """Tell the story, and return whether it ended well.

    :param database: one of :data:`DATABASES`
    :param users: how many users try to sign up
    :param seed: what they do is drawn from this
    """
    screen.title("reflex_aio: events for mutable SQL tables")
    name, make_server = DATABASES[database]
    screen.step(f"A {name} of our own, with a database for each of two services")
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

        screen.step("Both consumers at work, and the mailer killed midway")
        async with (
            serving(users_pool) as port,
            MailerProcess(users=f"127.0.0.1:{port}", database=server.dsn_for("mailer")) as process,
            _running(search_spec(users_pool)),
        ):
            screen.note("search consumes from the table, in this process, which writes as well")
            screen.note(f"mailer (process {process.pid}) consumes over gRPC")
            await _work(screen, users_pool, mailer_pool, process, users=users, seed=seed)
            status = await process.end()
            screen.note(f"mailer (process {process.pid}) was asked to end, and ended with status {status}")

        screen.step("What the databases say")
        return await _judge(screen, users_pool, mailer_pool) and status == 0


async def _show_an_event(screen: Screen, pool: Any) -> None:
    """Sign up three users, the second in vain, and read the events."""
    screen.step("An event is a row, inserted in the transaction of the change that it tells of")
    service = Users(pool)
    open_team, full_team = await _new_teams(pool, {"open": 2, "full": 0})
    await service.sign_up(open_team, "ann@example.com")
    screen.note("COMMIT    ann has signed up: a row in users, and one in user_events")
    with suppress(TeamIsFull):
        await service.sign_up(full_team, "bob@example.com")
    screen.note("ROLLBACK  bob's team is full: both of his rows were there, and are gone")
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
    screen.note("The id in between was bob's. The stream has made sure that it is gone, not late.")


async def _work(
    screen: Screen,
    users_pool: Any,
    mailer_pool: Any,
    process: MailerProcess,
    *,
    users: int,
    seed: int,
) -> None:
    # One team is full before long; whoever then tries to join it is rolled back.
    teams = await _new_teams(users_pool, {"red": users, "green": users, "blue": users, "tiny": users // 12})
    traffic = Traffic(Users(users_pool), teams=teams, users=users, seed=seed, seconds=_SECONDS)

    async def counts() -> tuple[int, int, int]:
        return (
            await _number(users_pool, _COUNT_EVENTS),
            await _consumed(users_pool),
            await _consumed(mailer_pool),
        )

    with screen.moving() as line:

        async def until(reached: Callable[[tuple[int, int, int]], bool]) -> tuple[int, int, int]:
            """Wait for the committed events, and those consumed by search and mailer, to be such and such."""
            before, patience = await counts(), _PATIENCE
            while not reached(now := await counts()) and patience > 0:
                patience = _PATIENCE if now != before else patience - 0.05
                before = now
                line.update("committed {} · search {} · mailer {}".format(*now))
                await asyncio.sleep(0.05)
            return now

        async with asyncio.TaskGroup() as group:
            writing = group.create_task(traffic.run())
            screen.note(f"{users} users try to sign up, through 8 writers; one team is soon full")
            committed, _, mailed = await until(lambda now: traffic.progress >= _KILL_AT and now[2] > 0)
            await process.kill()
            screen.note(f"KILL -9   mailer (process {process.pid}), after {mailed} of {committed} events")
            committed, searched, mailed = await until(lambda _: traffic.progress >= _RESTART_AT)
            screen.note(
                f"writers go on: {committed} events are committed, search has {searched}, mailer {mailed}"
            )
            await process.start()
            screen.note(f"START     mailer (process {process.pid}), which goes on from its stored cursor")
            await writing
            screen.note(f"the writers are done; {traffic.rolled_back} of their transactions were rolled back")
            committed, searched, mailed = await until(lambda now: now[0] == now[1] == now[2])
            screen.note(f"search has consumed {searched}, mailer {mailed} of {committed} events")


async def _judge(screen: Screen, users_pool: Any, mailer_pool: Any) -> bool:
    committed = [EventRow(*row) for row in await _rows(users_pool, _EVENTS)]
    changes = await _number(users_pool, "SELECT sum(version) FROM users")
    mails = await _number(mailer_pool, "SELECT count(*) FROM mails")
    verdicts = [
        await _verdict("search", users_pool, committed),
        await _verdict("mailer", mailer_pool, committed),
    ]
    screen.note(f"{changes} changes of users were committed, and {len(committed)} events with them")
    rolled_back = committed[-1].id - len(committed) if committed else 0
    screen.note(f"{rolled_back} more events were inserted among them, and rolled back with their changes")
    screen.note(
        f"{verdicts[1].repeated} events came to mailer twice, after the kill; it has {mails} mails, one for each event"
    )
    screen.verdicts(verdicts)
    return report(screen, verdicts, changes=changes, mails=mails)


def report(screen: Screen, verdicts: list[Verdict], *, changes: int, mails: int) -> bool:
    """Tell how it ended, and return whether it ended well.

    :param changes: how many changes of users were committed
    :param mails: how many mails there are
    """
    failed = [verdict.consumer for verdict in verdicts if not verdict.passed]
    if failed:
        screen.failure(f"not each event came, in order: {', '.join(failed)}")
    elif {changes, mails} != {verdicts[0].committed}:
        screen.failure(
            f"{changes} changes, {verdicts[0].committed} events, {mails} mails: they should be as many"
        )
    else:
        screen.success("each consumer got every committed event, in order, and none that was rolled back")
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
    """Make teams of these names and free seats, and return their ids."""
    insert = "INSERT INTO teams (name, free_seats) VALUES (%s, %s) RETURNING id"
    return [(await _rows(pool, insert, name, count))[0][0] for name, count in seats.items()]


@asynccontextmanager
async def _database(server: EmbeddedServer, name: str) -> AsyncIterator[Any]:
    """Make a database, and lend a pool of connections to it."""
    async with open_pool(server.dsn, size=1) as pool:
        await _rows(pool, f"CREATE DATABASE {name}")
    async with open_pool(server.dsn_for(name), size=20) as pool:
        yield pool


@asynccontextmanager
async def _running(spec: Spec) -> AsyncIterator[None]:
    """Run a consumer meanwhile."""
    consuming = asyncio.create_task(run_forever(spec))
    try:
        yield
    finally:
        consuming.cancel()
        with suppress(asyncio.CancelledError):
            await consuming
