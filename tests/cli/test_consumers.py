"""consumers and top: the positions of consumers."""

import asyncio
import json
import os
import signal

import asyncpg
import pytest

from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.sql import LeasesTable
from tests.cli.commands import on_terminal, reflex_aio
from tests.cli.conftest import Service, cursors, events
from tests.fix_databases import Connect, Database
from tests.fix_processes import Spawn
from tests.waiting import deadline

pytestmark = pytest.mark.asyncio


async def test_each_consumer_has_its_cursor_and_how_far_it_is_behind(service: Service) -> None:
    await service.insert(9)
    await service.connection.execute(
        "UPDATE user_events SET timestamp = now() - interval '1 hour' WHERE id = 6"
    )
    for name, cursor in {"mail": "5", "search": "9"}.items():
        await cursors.set(service.connection, name, cursor)
    shown = (await service.reflex_aio("consumers", "--json")).done().json
    assert (shown["events"], shown["oldest"], shown["head"]) == ("user_events", "1", "9")
    mail, search = shown["consumers"]
    assert (mail["consumer"], mail["cursor"], mail["events_behind"], mail["state"]) == (
        "mail",
        "5",
        4,
        "behind",
    )
    assert mail["seconds_behind"] == pytest.approx(3600, abs=60)
    assert (search["events_behind"], search["seconds_behind"], search["state"]) == (0, 0.0, "at_head")
    table = (await service.reflex_aio("consumers")).done().lines
    assert table[0] == "user_events has events from 1 to 9, the head"
    assert table[-2].split()[:5] == ["mail", "5", "4", "60", "min"]
    assert table[-1].endswith("at the head")


async def test_a_cursor_beyond_the_table_and_one_before_the_oldest_event_are_shown_as_such(
    service: Service,
) -> None:
    await service.insert(20)
    for name, cursor in {"ahead": "21", "pruned": "3", "last": "9", "at-head": "20"}.items():
        await cursors.set(service.connection, name, cursor)
    await service.connection.execute("DELETE FROM user_events WHERE id < 10")
    shown = (await service.reflex_aio("consumers", "--json")).done().json
    assert {each["consumer"]: each["state"] for each in shown["consumers"]} == {
        "ahead": "ahead",
        "at-head": "at_head",
        "last": "behind",
        "pruned": "may_miss",
    }


async def test_a_consumer_at_the_end_of_a_table_that_was_emptied_is_at_the_head(service: Service) -> None:
    await service.insert(5)
    await cursors.set(service.connection, "mail", "5")
    await service.connection.execute("DELETE FROM user_events")
    shown = (await service.reflex_aio("consumers", "--json")).done().json
    assert (shown["oldest"], shown["head"]) == ("", "")
    assert shown["consumers"][0]["state"] == "at_head"
    assert (await service.reflex_aio("consumers")).done().lines[0] == "user_events is empty"


async def test_cursors_that_are_not_event_ids_are_shown_without_a_lag(
    database: Database, connect: Connect
) -> None:
    connection = await connect()
    await events.create(connection)
    opaque = cursors.replace(cursor_type="str")
    await opaque.create(connection)
    for name, cursor in {"bucket": "2026/01/file", "huge": "9" * 30, "mail": "0"}.items():
        await opaque.set(connection, name, cursor)
    shown = await reflex_aio("consumers", "--events", "user_events", "--json", "--dsn", database.dsn)
    states = {each["consumer"]: each["state"] for each in shown.done().json["consumers"]}
    assert states == {"bucket": "unknown", "huge": "unknown", "mail": "at_head"}


async def test_only_matching_consumers_are_shown_with_only(service: Service) -> None:
    for name in ("mail-de", "mail-en", "search"):
        await cursors.set(service.connection, name, "1")
    await service.insert(1)
    shown = (await service.reflex_aio("consumers", "--only", "mail-*", "--json")).done().json
    assert [each["consumer"] for each in shown["consumers"]] == ["mail-de", "mail-en"]


async def test_a_consumer_beyond_max_lag_ends_it_with_status_1(service: Service) -> None:
    await service.insert(2)
    await cursors.set(service.connection, "mail", "1")
    await cursors.set(service.connection, "search", "2")
    await service.connection.execute("UPDATE user_events SET timestamp = now() - interval '10 min'")
    assert (await service.reflex_aio("consumers", "--max-lag", "3600")).status == 0
    late = await service.reflex_aio("consumers", "--max-lag", "60")
    assert late.status == 1
    assert late.err == "reflex-aio: more than 60 s behind: mail\n"


async def test_cursors_may_be_in_another_database(
    service: Service, database: Database, connect: Connect
) -> None:
    await service.insert(7)
    other = f"{database.name}_2"
    await service.connection.execute(f'CREATE DATABASE "{other}"')
    try:
        dsn = database.server.dsn_for(other)
        connection = await connect(dsn=dsn)
        await cursors.create(connection)
        await cursors.set(connection, "mail", "3")
        shown = (await service.reflex_aio("consumers", "--cursors-dsn", dsn, "--json")).done().json
        assert [(each["consumer"], each["events_behind"]) for each in shown["consumers"]] == [("mail", 4)]
        await connection.close()
    finally:
        await service.connection.execute(f'DROP DATABASE "{other}" WITH (FORCE)')


@pytest.mark.parametrize("command", ["consumers", "top"])
async def test_a_missing_and_a_foreign_table_are_errors(service: Service, command: str) -> None:
    await service.connection.execute("CREATE TABLE others (number int)")
    for option in ("--events", "--cursors"):
        missing = await service.reflex_aio(command, option, "nothing")
        assert missing.failed(3).startswith("nothing: the table does not exist")
        others = await service.reflex_aio(command, option, "others")
        assert 'others: column "' in others.failed(1)


async def test_the_owner_of_a_held_lease_is_shown(service: Service, pool: asyncpg.Pool) -> None:
    await service.insert(2)
    for name in ("mail", "search", "stats"):
        await cursors.set(service.connection, name, "1")
    await service.connection.execute("CREATE TABLE leases (tenant text)")
    assert (await service.reflex_aio("consumers", "--json")).done().json["consumers"][0]["lease"] is None
    assert "column" in (await service.reflex_aio("consumers", "--leases", "leases")).failed(1)
    assert (await service.reflex_aio("consumers", "--leases", "nothing")).failed(3).startswith("nothing: ")
    leases = LeasesTable("held")
    await leases.create(service.connection)
    store = leases.store(pool)
    await store.acquire("mail", "replica-1", ttl=600)
    released = await store.acquire("search", "replica-2", ttl=600)
    assert released is not None
    await store.release(released)
    shown = (await service.reflex_aio("consumers", "--leases", "held", "--json")).done().json["consumers"]
    assert (shown[0]["lease"]["owner"], shown[0]["lease"]["epoch"]) == ("replica-1", 1)
    assert 0 < shown[0]["lease"]["seconds_left"] <= 600
    assert (shown[1]["lease"]["owner"], shown[2]["lease"]) == ("", None)
    table = (await service.reflex_aio("consumers", "--leases", "held")).done().lines
    assert table[1].endswith("run by")
    assert [line.endswith("replica-1") for line in table[-3:]] == [True, False, False]


# top


async def test_top_updates_periodically_and_shows_the_speed_of_cursors(
    service: Service, spawn: Spawn
) -> None:
    await service.insert(100)
    await cursors.set(service.connection, "mail", "1")
    child = await spawn.program("-m", "reflex_aio", "top", *service.options, "--every", "0.1", "--json")
    [mail] = json.loads(await child.line())["consumers"]
    assert (mail["cursor"], mail["per_second"]) == ("1", None)
    await cursors.set(service.connection, "mail", "51")
    async with asyncio.timeout(deadline(20)):
        while mail["cursor"] != "51":
            [mail] = json.loads(await child.line())["consumers"]
    assert 0 < mail["per_second"] <= 500
    [mail] = json.loads(await child.line())["consumers"]
    assert mail["per_second"] == 0


async def test_top_continues_after_a_restart_of_the_server(
    own_server: EmbeddedPostgres, spawn: Spawn
) -> None:
    connection = await asyncpg.connect(own_server.dsn)
    for table in (events, cursors):
        await table.create(connection)
    await connection.close()
    child = await spawn.program(
        "-m", "reflex_aio", "top", "--events", events.name, "--every", "0.1", "--json", "--dsn", own_server.dsn
    )  # fmt: skip
    await child.line()
    await own_server.restart()
    connection = await asyncpg.connect(own_server.dsn)
    await events.insert(connection, 1, 1)
    await connection.close()
    async with asyncio.timeout(deadline(30)):
        while json.loads(await child.line())["head"] != "1":
            pass


async def test_top_prints_tables_without_a_terminal(service: Service) -> None:
    await service.insert(2)
    await cursors.set(service.connection, "mail", "1")
    shown = (await service.reflex_aio("top", "-n", "2", "--every", "0.1")).done()
    assert shown.out.count("user_events has events from 1 to 2") == 2
    assert "per second" in shown.out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_top_ends_on_a_signal(service: Service, spawn: Spawn, number: int, status: int) -> None:
    await service.insert(1)
    child = await spawn.program("-m", "reflex_aio", "top", *service.options, "--json")
    await child.line()
    os.kill(child.pid, number)
    assert await child.wait() == status


async def test_top_uses_the_alternate_screen_of_a_terminal_and_leaves_it(service: Service) -> None:
    await service.insert(3)
    await cursors.set(service.connection, "mail", "1")
    screen = await on_terminal("top", *service.options, "--every", "0.1", "--count", "3")
    assert "user_events has events from 1 to 3, the head" in screen
    assert "per second" in screen
    # The alternate screen is entered, and left.
    assert screen.index("\x1b[?1049h") < screen.index("\x1b[?1049l")
