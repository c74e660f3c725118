"""Notifiers: who is woken, by what, and what becomes of the connections."""

import asyncio
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.sql import EventsTable
from reflex_aio.sql.drivers.asyncpg import AsyncpgDriver
from reflex_aio.sql.wakeups.notify_session import NotifierTimeouts
from reflex_aio.sql.wakeups.postgres_notifier import PostgresNotifier, close_notifiers, notifier_of
from tests.fix_databases import Connect, Database
from tests.fix_processes import Spawn
from tests.fix_proxy import Proxy
from tests.fix_standbys import Standby
from tests.fix_statements import Statements
from tests.sql import notifier_children
from tests.sql.notifiers import QUICK, Seen, Woken, listening, notifier_to
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio

driver = AsyncpgDriver()


async def backends(connection: asyncpg.Connection, application: str = "notifier") -> list[int]:
    """The process ids of the notifiers' connections to this database."""
    rows = await connection.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1",
        application,
    )
    return [row["pid"] for row in rows]


async def listener_of(connection: asyncpg.Connection) -> int:
    """The process id of the one connection that notifiers keep, once those they have closed have ended there too."""

    async def only() -> list[int] | None:
        found = await backends(connection)
        return found if len(found) == 1 else None

    pids = await eventually(only, "the notifiers have one connection")
    assert pids is not None
    return pids[0]


async def test_subscribers_in_the_process_are_woken_before_notify_returns(database: Database) -> None:
    woken, other = Woken(), Woken()
    async with notifier_to(database.dsn) as notifier:
        notifier.subscribe("public.t", woken)
        notifier.subscribe("public.other", other)
        notifier.notify("public.t")
        assert (woken.count, other.count) == (1, 0)


@pytest.mark.every_postgres
async def test_a_notifier_hears_of_another_process_and_another_process_of_it(
    database: Database, spawn: Spawn
) -> None:
    async with listening(database.dsn) as (notifier, woken, _):
        child = await spawn(notifier_children.answer, database.dsn)
        await child.until("ready")
        before = woken.count
        notifier.notify("public.question")
        await child.until("woken")
        await woken.more_than(before)


@pytest.mark.parametrize("backslashes", ["on", "off"])
@pytest.mark.parametrize("table", ["public.it's", "a\\b.'c\\'; SELECT 1 --", "ünï.\U0001f418"])
async def test_a_table_of_any_name_is_announced(database: Database, table: str, backslashes: str) -> None:
    def connect() -> Awaitable[asyncpg.Connection]:
        # Without it, a backslash in plain quotes is an escape.
        return asyncpg.connect(database.dsn, server_settings={"standard_conforming_strings": backslashes})

    async with listening(database.dsn, table) as (_, woken, _):
        before = woken.count
        notifier = PostgresNotifier(connect, timeouts=QUICK)
        notifier.notify(table)
        notifier.notify("public.other")
        await woken.more_than(before)
        await notifier.aclose()


async def test_a_notification_from_any_connection_wakes(database: Database, connect: Connect) -> None:
    """As triggers and writers that notify in their transaction send them."""
    connection = await connect()
    async with listening(database.dsn) as (_, woken, _):
        before = woken.count
        async with connection.transaction():
            await connection.execute("SELECT pg_notify('reflex_aio', 'public.t')")
            assert woken.count == before
        await woken.more_than(before)


@pytest.mark.every_postgres
async def test_a_notifiers_own_notification_wakes_its_subscribers_once(database: Database) -> None:
    async with listening(database.dsn) as (one, one_woken, _), listening(database.dsn) as (two, two_woken, _):
        fence = Woken()
        one.subscribe("public.fence", fence)
        before_one, before_two = one_woken.count, two_woken.count
        for _ in range(5):
            one.notify("public.t")
        await two_woken.more_than(before_two)
        # By the time that this arrives, one's own notifications have come back.
        two.notify("public.fence")
        await fence.more_than(0)
        assert one_woken.count == before_one + 5


async def test_a_subscription_before_the_notifier_listens_misses_nothing(
    database: Database, connect: Connect
) -> None:
    connection, connecting, go_on = await connect(), asyncio.Event(), asyncio.Event()

    async def connect_late() -> asyncpg.Connection:
        connecting.set()
        await go_on.wait()
        return await asyncpg.connect(database.dsn)

    notifier, woken = PostgresNotifier(connect_late), Woken()
    notifier.subscribe("public.t", woken)
    await connecting.wait()
    await connection.execute("SELECT pg_notify('reflex_aio', 'public.t')")
    assert woken.count == 0
    go_on.set()
    await woken.more_than(0)
    await notifier.aclose()


@pytest.mark.suite_server
async def test_a_thousand_commits_in_a_burst_take_few_notify_statements(
    database: Database, statements: Statements
) -> None:
    notifier = notifier_to(database.dsn)
    began = time.monotonic()
    async with asyncpg.create_pool(database.dsn, min_size=10, max_size=10) as pool:

        async def write() -> None:
            for _ in range(100):
                async with pool.acquire() as connection, connection.transaction():
                    await connection.execute("SELECT 1")
                    driver.after_transaction(connection, notifier, lambda: notifier.notify("public.t"))

        async with asyncio.TaskGroup() as writers:
            for _ in range(10):
                writers.create_task(write())
    took = time.monotonic() - began
    await notifier.aclose()
    sent = [statement for statement in statements.taken() if "NOTIFY" in statement.text]
    # One at once, one in each 5 ms, one at the end.
    assert 1 <= len(sent) <= took / 0.005 + 2


@pytest.mark.suite_server
async def test_while_commits_are_many_notifications_are_sent_less_often_and_later_again_at_once(
    database: Database, statements: Statements
) -> None:
    def sent() -> int:
        return sum("NOTIFY" in statement.text for statement in statements.taken())

    async with listening(database.dsn, timeouts=NotifierTimeouts(ping=60.0)) as (_, woken, _):
        notifier = notifier_to(database.dsn, timeouts=NotifierTimeouts(coalesce=0.005, coalesce_busy=0.5))
        sent()
        began = time.monotonic()
        while time.monotonic() < began + 2.0:
            for _ in range(10):
                notifier.notify("public.t")
            await asyncio.sleep(0.001)
        # One at once, then after rests of 10, 20, 40, ... ms, up to half a second.
        assert 2 <= sent() <= (time.monotonic() - began) / 0.5 + 8
        # Each of these is sent separately: the pauses get shorter again.
        for _ in range(8):
            before = woken.count
            notifier.notify("public.t")
            await woken.more_than(before)
        assert sent() >= 8
        await notifier.aclose()


@pytest.mark.suite_server
async def test_the_tables_of_a_burst_are_announced_in_one_statement(
    database: Database, statements: Statements
) -> None:
    notifier = notifier_to(database.dsn)
    for number in range(50):
        notifier.notify(f"public.t{number}")
    async with listening(database.dsn, "public.t49") as (_, woken, _):
        await notifier.aclose()
        await woken.more_than(0)
    sent = [statement.text for statement in statements.taken() if "NOTIFY" in statement.text]
    assert len(sent) <= 3


@pytest.mark.suite_server
async def test_a_process_that_only_writes_does_not_listen(
    database: Database, connect: Connect, statements: Statements
) -> None:
    connection, seen = await connect(), Seen()

    def listened() -> int:
        return len([statement for statement in statements.taken() if statement.text.startswith("LISTEN")])

    async with listening(database.dsn) as (_, woken, _), notifier_to(database.dsn, seen) as writer:
        assert listened() == 1
        before = woken.count
        writer.notify("public.t")
        await woken.more_than(before)
        assert listened() == 0
        # From the first subscription on, its one connection serves both.
        writer.subscribe("public.t", Woken())
        await eventually(lambda: seen.ready == 1, "it listens")
        assert listened() == 1
        assert len(await backends(connection)) == 2


@pytest.mark.every_postgres
async def test_a_terminated_listener_listens_again_and_wakes_everyone(
    database: Database, connect: Connect
) -> None:
    connection = await connect()
    # Long before a ping would find out.
    async with (
        listening(database.dsn, timeouts=NotifierTimeouts(ping=60.0)) as (_, woken, seen),
        notifier_to(database.dsn) as other,
    ):
        pid = await listener_of(connection)
        before = woken.count
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
        await eventually(lambda: seen.ready == 2, "it listens again")
        assert seen.lost == 1
        assert woken.count == before + 1
        other.notify("public.t")
        await woken.more_than(before + 1)


async def test_a_notification_that_could_not_be_sent_is_sent_after_the_reconnect(
    own_server: EmbeddedPostgres,
) -> None:
    seen = Seen()
    notifier = notifier_to(own_server.dsn, seen)
    async with listening(own_server.dsn) as (_, woken, _):
        await own_server.stop()
        notifier.notify("public.t")
        await eventually(lambda: seen.failed > 1, "sending failed")
        before = woken.count
        await own_server.start()
        await woken.more_than(before)
        await eventually(lambda: not notifier._state.unsent, "sent")
    await notifier.aclose()


async def test_a_notification_under_which_the_link_stalled_is_sent_again(
    database: Database, proxy: Proxy
) -> None:
    seen = Seen()
    async with notifier_to(proxy.dsn, seen) as notifier, listening(database.dsn) as (_, woken, _):
        before = woken.count
        notifier.notify("public.t")
        await woken.more_than(before)
        before = woken.count
        proxy.stall()
        notifier.notify("public.t")
        await eventually(lambda: seen.failed, "given up")
        await proxy.drop_connections()
        proxy.resume()
        await woken.more_than(before)


async def test_notifiers_survive_a_restart_of_the_server(own_server: EmbeddedPostgres) -> None:
    async with (
        listening(own_server.dsn) as (one, one_woken, one_seen),
        listening(own_server.dsn) as (two, two_woken, two_seen),
    ):
        for mode in ("fast", "immediate"):
            before = one_seen.ready, two_seen.ready
            await own_server.restart(mode)
            await eventually(
                lambda before=before: (
                    (one_seen.ready, two_seen.ready) > before and two_seen.ready > before[1]
                ),  # type: ignore[misc]
                "both listen again",
            )
            count = two_woken.count
            one.notify("public.t")
            await two_woken.more_than(count)
            count = one_woken.count
            two.notify("public.t")
            await one_woken.more_than(count)


async def test_a_stalled_link_is_found_by_its_pings(database: Database, proxy: Proxy) -> None:
    async with listening(proxy.dsn) as (_, woken, seen), notifier_to(database.dsn) as other:
        proxy.stall()
        await eventually(lambda: seen.lost, "the stalled link given up")
        before = woken.count
        other.notify("public.t")
        proxy.resume()
        await eventually(lambda: seen.ready == 2, "it listens again")
        assert woken.count > before


async def test_a_cut_link_comes_back(database: Database, proxy: Proxy) -> None:
    async with listening(proxy.dsn) as (_, woken, seen), notifier_to(database.dsn) as other:
        await proxy.stop()
        await eventually(lambda: seen.lost > 2, "tried again and again")
        await proxy.start()
        await eventually(lambda: seen.ready == 2, "it listens again")
        before = woken.count
        other.notify("public.t")
        await woken.more_than(before)


@pytest.mark.suite_server
@pytest.mark.parametrize("pgbouncer", ["transaction"], indirect=True)
async def test_a_pooler_that_swallows_listen_is_detected_and_logged(
    database: Database, pgbouncer: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    async with notifier_to(pgbouncer, seen) as notifier, listening(database.dsn) as (_, woken, _):
        notifier.subscribe("public.t", Woken())
        await eventually(lambda: seen.silent > 1, "found out, and tried again")
        assert (seen.ready, seen.lost) == (0, 0)
        # Notifications to others work.
        before = woken.count
        notifier.notify("public.t")
        await woken.more_than(before)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "notifier=PostgresNotifier(connect=...)" in warnings[0]


@pytest.mark.suite_server
@pytest.mark.parametrize("pgbouncer", ["session"], indirect=True)
async def test_a_pooler_in_session_mode_serves(database: Database, pgbouncer: str) -> None:
    async with (
        listening(pgbouncer) as (notifier, woken, seen),
        listening(database.dsn) as (other, other_woken, _),
    ):
        before = woken.count, other_woken.count
        notifier.notify("public.t")
        await other_woken.more_than(before[1])
        other.notify("public.t")
        await woken.more_than(before[0] + 1)
        assert woken.count == before[0] + 2
        assert seen.silent == 0


@pytest.mark.every_postgres
async def test_a_standby_is_left_alone_until_it_is_promoted(
    standby: Standby, caplog: pytest.LogCaptureFixture
) -> None:
    tries, seen, woken = 0, Seen(), Woken()

    async def connect() -> asyncpg.Connection:
        nonlocal tries
        tries += 1
        return await asyncpg.connect(standby.dsn)

    # Greater than the rest of the test takes: only a promotion may be worth another try.
    notifier = PostgresNotifier(connect, hooks=seen, timeouts=NotifierTimeouts(silent=2.0))
    notifier.subscribe("public.t", woken)
    notifier.notify("public.t")
    await eventually(lambda: "this server has no notifications" in caplog.text, "logged")
    notifier.notify("public.t")
    await asyncio.sleep(0.5)
    assert tries == 1
    assert caplog.text.count("this server has no notifications") == 1
    await standby.promote()
    await eventually(lambda: seen.ready == 1, "it listens")
    await notifier.aclose()


async def test_an_idle_notifier_closes_its_connection_and_comes_back(
    database: Database, connect: Connect
) -> None:
    connection = await connect()
    async with listening(database.dsn) as (_, woken, _):
        notifier = notifier_to(database.dsn, timeouts=NotifierTimeouts(idle=0.2))
        listener = await listener_of(connection)
        for _ in range(2):
            before = woken.count
            notifier.notify("public.t")
            await woken.more_than(before)
            assert len(await backends(connection)) == 2

            async def alone() -> bool:
                return await backends(connection) == [listener]

            await eventually(alone, "the idle notifier's connection closed")
        await notifier.aclose()


async def test_a_notifier_that_only_writes_now_stops_listening(database: Database, connect: Connect) -> None:
    connection, seen = await connect(), Seen()
    notifier = notifier_to(database.dsn, seen, NotifierTimeouts(idle=0.2))
    unsubscribe = notifier.subscribe("public.t", Woken())
    await eventually(lambda: seen.ready == 1, "it listens")
    listener = await listener_of(connection)
    unsubscribe()

    async def changed() -> bool:
        notifier.notify("public.t")
        return listener not in await backends(connection)

    await eventually(changed, "the connection that listened closed, under writes")
    await notifier.aclose()


async def test_an_idle_connection_that_is_lost_is_not_renewed_until_it_is_needed(
    database: Database, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connection, notifier = await connect(), notifier_to(database.dsn)
    notifier.notify("public.t")

    async def connected() -> list[int]:
        return await backends(connection)

    (pid,) = await eventually(connected, "the notifier has connected")
    answered = "SELECT state = 'idle' AND query LIKE '%NOTIFY%' FROM pg_stat_activity WHERE pid = $1"
    await eventually(lambda: connection.fetchval(answered, pid), "the notification was sent")
    await connection.execute("SELECT pg_terminate_backend($1)", pid)
    await eventually(lambda: notifier._running is None, "the notifier has noticed")
    assert not caplog.messages

    async def alone() -> bool:
        return not await connected()

    await eventually(alone, "there is no connection")
    notifier.notify("public.t")
    await eventually(connected, "the notifier has connected again")
    await notifier.aclose()


async def test_a_users_pool_closes_while_its_notifier_listens(database: Database) -> None:
    woken = Woken()
    async with asyncpg.create_pool(database.dsn, min_size=1, max_size=2) as pool:
        async with pool.acquire() as connection:
            notifier = await notifier_of(driver, connection)
        notifier.subscribe("public.t", woken)
        await woken.more_than(0)
        async with asyncio.timeout(deadline(5)):
            await pool.close()
    async with listening(database.dsn) as (other, _, _):
        before = woken.count
        other.notify("public.t")
        await woken.more_than(before)


async def test_a_loop_has_one_notifier_for_a_server_database_and_user(
    database: Database, connect: Connect
) -> None:
    one, two, elsewhere = await connect(), await connect(), await connect(database="postgres")
    assert await notifier_of(driver, one) is await notifier_of(driver, two)
    assert await notifier_of(driver, one) is not await notifier_of(driver, elsewhere)


async def test_an_entered_notifier_serves_the_connections_that_go_where_its_own_go(
    database: Database, connect: Connect, proxy: Proxy
) -> None:
    connection, through_proxy = await connect(), await connect(dsn=proxy.dsn)
    async with notifier_to(database.dsn) as notifier:
        assert await notifier_of(driver, connection) is notifier
        # As a pooler's, the proxy's address is another one.
        assert await notifier_of(driver, through_proxy) is not notifier
        await close_notifiers()
        assert await notifier_of(driver, connection) is notifier
    assert await notifier_of(driver, connection) is not notifier


async def test_inserts_on_one_connection_wake_by_the_notifier_that_serves_it_at_the_time(
    database: Database, connect: Connect
) -> None:
    events, connection = EventsTable("notifier_events"), await connect()
    await events.create(connection)
    await events.insert(connection, 1, 1)
    # Its notifications are sent before any connection listens.
    await close_notifiers()
    async with listening(database.dsn, "public.notifier_events") as (_, woken, _):
        before = woken.count
        await events.insert(connection, 1, 1)
        # Outside a transaction streams are woken before insert returns.
        assert woken.count == before + 1
    before = woken.count
    await events.insert(connection, 1, 1)
    assert woken.count == before


async def test_to_enter_a_notifier_that_cannot_connect_raises(database: Database) -> None:
    notifier = notifier_to(f"{database.dsn.replace(database.name, 'no_such_database')}")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await notifier.__aenter__()


async def test_a_notifier_refuses_a_pools_connection(pool: asyncpg.Pool) -> None:
    acquired: list[Any] = []

    async def acquire() -> Any:
        acquired.append(await pool.acquire())
        return acquired[0]

    with pytest.raises(TypeError, match=r"asyncpg\.connect\(\) returned"):
        await PostgresNotifier(acquire).__aenter__()
    await pool.release(acquired[0])


async def test_a_closed_notifier_wakes_its_process_alone(database: Database, connect: Connect) -> None:
    connection, woken = await connect(), Woken()
    notifier = notifier_to(database.dsn)
    notifier.subscribe("public.t", woken)
    await woken.more_than(0)
    await notifier.aclose()
    before = woken.count
    notifier.notify("public.t")
    assert woken.count == before + 1

    async def none_left() -> bool:
        return await backends(connection) == []

    await eventually(none_left, "it has no connection")


async def test_closing_sends_what_is_still_to_be_sent(database: Database) -> None:
    async with listening(database.dsn) as (_, woken, _):
        before = woken.count
        notifier = notifier_to(database.dsn)
        notifier.notify("public.t")
        await asyncio.sleep(0)
        await notifier.aclose()
        await woken.more_than(before)


async def test_passwords_are_neither_shown_nor_logged(
    database: Database, connect: Connect, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    connection = await connect(dsn=proxy.dsn, password="opensesame")
    notifier = await notifier_of(driver, connection)
    await proxy.stop()
    notifier.notify("public.t")
    await eventually(lambda: "the notifier has no connection" in caplog.text, "logged")
    address = await driver.server(connection)
    assert "opensesame" not in f"{caplog.text} {notifier!r} {vars(notifier)!r} {address!r}"


async def test_cancellation_at_any_await_leaves_no_task_and_no_connection(
    database: Database, connect: Connect
) -> None:
    """The fixtures look for tasks that are left; here it is the connections."""
    connection = await connect()
    for turns in range(60):
        notifier = notifier_to(database.dsn)
        notifier.subscribe("public.t", Woken())
        notifier.notify("public.t")
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        (task,) = notifier._tasks._tasks
        task.cancel()
        await notifier.aclose()

        async def gone() -> bool:
            return await backends(connection) == []

        await eventually(gone, f"no connection left by a notifier that was cancelled after {turns} turns")


async def test_a_cancelled_notifier_comes_back_in_a_loop_that_goes_on(database: Database) -> None:
    async with listening(database.dsn) as (notifier, _, seen):
        (task,) = notifier._tasks._tasks
        task.cancel()
        await asyncio.wait([task])
        notifier.notify("public.t")
        await eventually(lambda: seen.ready == 2, "it listens again")


def _in_thread(main: Callable[[], Awaitable[None]]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(main())  # type: ignore[arg-type]
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


async def test_each_threads_loop_has_a_notifier_of_its_own(database: Database) -> None:
    async def in_its_loop() -> None:
        connection = await asyncpg.connect(database.dsn)
        notifier, woken = await notifier_of(driver, connection), Woken()
        notifier.subscribe("public.there", woken)
        await woken.more_than(0)
        before = woken.count
        while woken.count == before:
            # The first of these may come before the other listens.
            notifier.notify("public.here")
            await asyncio.sleep(0.01)
        await connection.close()

    async with listening(database.dsn, "public.here") as (notifier, woken, _):
        before = woken.count
        thread, errors = _in_thread(in_its_loop)
        await woken.more_than(before)
        while thread.is_alive():
            notifier.notify("public.there")
            await asyncio.sleep(0.01)
        thread.join()
        assert errors == []


async def test_a_notifier_serves_one_loop_at_a_time(database: Database) -> None:
    notifier = notifier_to(database.dsn)

    async def use() -> None:
        woken = Woken()
        notifier.subscribe("public.t", woken)
        await woken.more_than(0)

    for _ in range(2):
        # It need not be closed: the loop's end does that.
        thread, errors = _in_thread(use)
        await asyncio.to_thread(thread.join)
        assert errors == []
    notifier.subscribe("public.t", Woken())
    thread, errors = _in_thread(use)
    await asyncio.to_thread(thread.join)
    assert [str(error) for error in errors] == [
        "this notifier is in use in another event loop: create one for each loop"
    ]
    await notifier.aclose()


async def test_a_program_that_ends_after_an_insert_ends_in_silence_and_its_wake_up_arrives(
    database: Database,
) -> None:
    async with listening(database.dsn) as (_, woken, _):
        before = woken.count
        for ending in ("at once", "with a stream", "in an error"):
            assert await _run_child("insert", database.dsn, ending) == ""
            await woken.more_than(before)
            before = woken.count


async def test_a_fork_gets_a_notifier_of_its_own_and_leaves_its_parents_alone(database: Database) -> None:
    async with (
        listening(database.dsn, "public.child") as (_, child, _),
        listening(database.dsn, "public.parent") as (_, parent, _),
    ):
        before = child.count, parent.count
        assert await _run_child("fork", database.dsn) == ""
        await child.more_than(before[0])
        await parent.more_than(before[1])


async def _run_child(function: str, *arguments: str) -> str:
    """Run a function of notifier_children, with every warning an error, and return its standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "dev", "-W", "error", "-c",
        f"from tests.sql import notifier_children; notifier_children.{function}(*{arguments!r})",
        cwd=Path(__file__).parent.parent.parent, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return errors.decode()


@pytest.mark.parametrize("name", ["idle", "ping", "answer", "coalesce", "coalesce_busy", "silent"])
@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
async def test_timeouts_are_seconds_greater_than_zero(name: str, seconds: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name} {seconds} is out of range")):
        NotifierTimeouts(**{name: seconds})
