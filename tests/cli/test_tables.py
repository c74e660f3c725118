"""ddl, create and validate."""

import pytest

from reflex_aio.errors import TableNotFound
from reflex_aio.sql import (
    AttemptsTable,
    CursorsTable,
    ErrorsTable,
    EventColumns,
    EventsTable,
    LeasesTable,
)
from tests.cli.commands import call, reflex_aio
from tests.fix_backends import Backend


def test_ddl_is_that_of_the_tables() -> None:
    assert call("ddl").done().out == EventsTable("events").ddl() + "\n" + CursorsTable("cursors").ddl()
    errors = call("ddl", "errors", "--errors", "app.failures").done().out
    assert errors == ErrorsTable("app.failures").ddl()
    assert call("ddl", "leases").done().out == LeasesTable("leases").ddl()
    assert call("ddl", "attempts", "--attempts", "tries").done().out == AttemptsTable("tries").ddl()
    assert call("ddl", "attempts").done().out == AttemptsTable().ddl()


def test_ddl_has_options_for_the_layout() -> None:
    outcome = call(
        "ddl", "events", "cursors", "--events", "user_events", "--events-columns", "id=event_id, type=kind",
        "--metadata", "--trace", "--foreign-id", "bigint", "--trigger", "--cursor-type", "str", "--json",
    ).done()  # fmt: skip
    events = EventsTable(
        "user_events",
        columns=EventColumns(id="event_id", type="kind"),
        metadata=True,
        trace=True,
        foreign_id="bigint",
        wakeups="trigger",
    )
    cursors = CursorsTable("cursors", cursor_type="str")
    assert outcome.json == {
        "dialect": "postgres",
        "tables": {"user_events": events.ddl(), "cursors": cursors.ddl()},
    }


def test_names_are_read_from_the_environment_too() -> None:
    outcome = call("ddl", "events", REFLEX_EVENTS="user_events", REFLEX_EVENTS_COLUMNS="id=event_id").done()
    assert outcome.out == EventsTable("user_events", columns=EventColumns(id="event_id")).ddl()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--events", "a.b.c"], "--events: table name 'a.b.c' has more than two parts"),
        (["--cursors", 'a"b'], "--cursors: table name 'a\"b' is not accepted"),
        (["errors", "--errors", ""], "--errors: table name '' is not accepted"),
        (["--events-columns", "x=y"], "--events-columns 'x=y' is not accepted: accepted is column=name,... with"),
        (["--cursors-columns", "id"], "--cursors-columns 'id' is not accepted"),
        (["--events-columns", "id=type"], "--events-columns: column name 'type' is given to two columns"),
        (["--dialect", "oracle"], "--dialect: dialect 'oracle' is not known: accepted is 'mysql' or 'postgres'"),
    ],
)  # fmt: skip
def test_names_that_are_not_accepted_are_wrong_usage(arguments: list[str], reason: str) -> None:
    assert call("ddl", *arguments).failed(2).startswith(reason)


@pytest.mark.asyncio
async def test_create_creates_missing_tables_and_leaves_existing_ones(backend: Backend) -> None:
    made = await reflex_aio("create", "--events", "user_events", "--metadata", REFLEX_DSN=backend.dsn)
    assert made.done().lines == ["user_events: created", "cursors: created"]
    connection = await backend.connect()
    events = EventsTable("user_events", metadata=True)
    await events.validate(connection)
    async with backend.driver.transaction(connection):
        await events.insert(connection, 1, 1, metadata=b"kept")
    again = await reflex_aio(
        "create",
        "events",
        "cursors",
        "errors",
        "leases",
        "--events",
        "user_events",
        "--json",
        "--dsn",
        backend.dsn,
    )
    assert again.done().json == {
        "tables": [
            {"table": "user_events", "kind": "events", "created": False},
            {"table": "cursors", "kind": "cursors", "created": False},
            {"table": "consumer_errors", "kind": "errors", "created": True},
            {"table": "leases", "kind": "leases", "created": True},
        ]
    }
    (await reflex_aio("validate", "leases", "--dsn", backend.dsn)).done()
    assert await backend.value(connection, "SELECT count(*) FROM user_events") == 1


@pytest.mark.asyncio
async def test_create_refuses_a_foreign_table(backend: Backend) -> None:
    connection = await backend.connect()
    await backend.fetch(connection, "CREATE TABLE events (number int)")
    outcome = await reflex_aio("create", "--dsn", backend.dsn)
    assert 'events: column "id" is missing' in outcome.failed(1)
    with pytest.raises(TableNotFound):
        await CursorsTable("cursors").validate(connection)


@pytest.mark.asyncio
async def test_validate_detects_the_layout(backend: Backend) -> None:
    connection = await backend.connect()
    await EventsTable("events", metadata=True, foreign_id="bigint").create(connection)
    await CursorsTable("cursors", cursor_type="str").create(connection)
    await ErrorsTable().create(connection)
    outcome = await reflex_aio("validate", "events", "cursors", "errors", "--dsn", backend.dsn)
    assert [line.split() for line in outcome.done().lines[-3:]] == [
        [name, "valid"] for name in ("events", "cursors", "consumer_errors")
    ]


@pytest.mark.asyncio
async def test_validate_lists_all_differences_and_missing_tables(backend: Backend) -> None:
    connection = await backend.connect()
    await backend.fetch(connection, "CREATE TABLE events (id bigint, type varchar(9), foreign_id varchar(9))")
    differing = await reflex_aio("validate", "events", "--dsn", backend.dsn, "--json")
    assert differing.status == 1
    [events] = differing.json["tables"]
    assert len(events["differences"]) > 3
    missing = await reflex_aio("validate", "--dsn", backend.dsn)
    assert missing.status == 3
    assert "cursors" in missing.out
    assert "the table does not exist" in missing.out
