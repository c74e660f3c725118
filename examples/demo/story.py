"""The story that the demonstration tells."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg

from examples import mailer
from examples.demo.mailer_process import MailerProcess
from examples.demo.screen import Screen
from examples.demo.traffic import Traffic
from examples.demo.verdict import Delivery, EventRow, Verdict, judge
from examples.users.schema import UserEvent, create_tables, cursors, user_events
from examples.users.search import search_spec
from examples.users.server import serving
from examples.users.service import TeamIsFull, Users
from reflex_aio import Spec, run_forever
from reflex_aio.ext.embedded import EmbeddedPostgres

# How long the writers take, and how much they have done when the mailer is killed and when it is started again.
_SECONDS = 8.0
_KILL_AT, _RESTART_AT = 0.4, 0.7
# How long consumers may go without consuming anything before they are judged as they are, in seconds.
_PATIENCE = 20.0


async def tell(screen: Screen, *, users: int, seed: int) -> bool:
    """Tell the story, and return whether it ended well.

    :param users: how many users try to sign up
    :param seed: what they do is drawn from this
    """
    screen.title("reflex_aio: events for mutable SQL tables")
    screen.step("A PostgreSQL of our own, with a database for each of two services")
    async with (
        # It lasts as long as the demonstration: there is nothing to be kept from a power cut.
        EmbeddedPostgres(settings={"fsync": False}) as server,
        _database(server, "users") as users_pool,
        _database(server, "mailer") as mailer_pool,
    ):
        async with users_pool.acquire() as connection:
            screen.note(
                str(await connection.fetchval("SELECT split_part(version(), ' on ', 1)")) + " is ready"
            )
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


async def _show_an_event(screen: Screen, pool: asyncpg.Pool) -> None:
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
    users_pool: asyncpg.Pool,
    mailer_pool: asyncpg.Pool,
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
            await users_pool.fetchval("SELECT count(*) FROM user_events"),
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


async def _judge(screen: Screen, users_pool: asyncpg.Pool, mailer_pool: asyncpg.Pool) -> bool:
    committed = [
        EventRow(*row)
        for row in await users_pool.fetch("SELECT id, type, foreign_id FROM user_events ORDER BY id")
    ]
    changes = await users_pool.fetchval("SELECT sum(version) FROM users")
    drawn = await users_pool.fetchval("SELECT last_value FROM user_events_id_seq")
    mails = await mailer_pool.fetchval("SELECT count(*) FROM mails")
    verdicts = [
        await _verdict("search", users_pool, committed),
        await _verdict("mailer", mailer_pool, committed),
    ]
    screen.note(f"{changes} changes of users were committed, and {len(committed)} events with them")
    screen.note(f"{drawn - len(committed)} more events were inserted, and rolled back with their changes")
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


async def _verdict(consumer: str, pool: asyncpg.Pool, committed: list[EventRow]) -> Verdict:
    rows = await pool.fetch(
        "SELECT process, event_id, type, foreign_id FROM deliveries WHERE consumer = $1 ORDER BY number",
        consumer,
    )
    deliveries = [Delivery(process, EventRow(*event)) for process, *event in rows]
    async with pool.acquire() as connection:
        return judge(consumer, committed, deliveries, await cursors.get(connection, consumer))


async def _consumed(pool: asyncpg.Pool) -> int:
    count: int = await pool.fetchval("SELECT count(DISTINCT event_id) FROM deliveries")
    return count


async def _new_teams(pool: asyncpg.Pool, seats: dict[str, int]) -> list[int]:
    """Make teams of these names and free seats, and return their ids."""
    insert = "INSERT INTO teams (name, free_seats) VALUES ($1, $2) RETURNING id"
    return [await pool.fetchval(insert, name, count) for name, count in seats.items()]


@asynccontextmanager
async def _database(server: EmbeddedPostgres, name: str) -> AsyncIterator[asyncpg.Pool]:
    """Make a database, and lend a pool of connections to it."""
    admin = await asyncpg.connect(server.dsn)
    try:
        await admin.execute(f'CREATE DATABASE "{name}"')
    finally:
        await admin.close()
    async with asyncpg.create_pool(server.dsn_for(name), min_size=1, max_size=20) as pool:
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
