"""Tables that the Go library has made, and others like them: consumed as they are, gaps and cursors included."""

from datetime import UTC, datetime
from typing import Any

import pytest

from reflex_aio import Consumer, Event, Spec, run
from reflex_aio.sql import CursorsTable, EventColumns, EventsTable
from tests.fix_backends import MysqlBackend

pytestmark = pytest.mark.asyncio

TABLES = {
    "example": (
        EventsTable("events"),
        (
            "CREATE TABLE events (id int NOT NULL AUTO_INCREMENT, type int NOT NULL, timestamp datetime NOT NULL,"
            " foreign_id varchar(255) NOT NULL, PRIMARY KEY (id), INDEX (timestamp))"
        ),
        "INSERT INTO events SET foreign_id = '{}', type = 1, timestamp = '2024-02-29 12:00:00'",
    ),
    "numbers": (
        EventsTable("events", foreign_id="bigint", metadata=True),
        (
            "CREATE TABLE events (id bigint NOT NULL AUTO_INCREMENT, foreign_id bigint NOT NULL,"
            " timestamp datetime(3) NOT NULL, type bigint NOT NULL DEFAULT 0, metadata blob, PRIMARY KEY (id))"
        ),
        "INSERT INTO events SET foreign_id = {}, type = 1, timestamp = '2024-02-29 12:00:00'",
    ),
    "columns": (
        EventsTable(
            "events", columns=EventColumns(id="no", type="kind", timestamp="created_at", foreign_id="user_id")
        ),
        (
            "CREATE TABLE events (no bigint NOT NULL AUTO_INCREMENT, user_id varchar(9) NOT NULL,"
            " created_at datetime(6) NOT NULL, kind smallint NOT NULL, PRIMARY KEY (no))"
        ),
        "INSERT INTO events SET user_id = '{}', kind = 1, created_at = '2024-02-29 12:00:00'",
    ),
}
CURSORS = CursorsTable("cursors")
CURSORS_DDL = (
    "CREATE TABLE cursors (id varchar(255) NOT NULL, last_event_id bigint NOT NULL, updated_at datetime NOT NULL,"
    " PRIMARY KEY (id))"
)


@pytest.mark.parametrize("kind", TABLES)
async def test_what_go_services_insert_is_consumed_across_their_rollbacks(
    mysql: MysqlBackend, backend_pool: Any, kind: str
) -> None:
    events, ddl, insert = TABLES[kind]
    writer = await mysql.connect(autocommit=False)
    for statement in (ddl, CURSORS_DDL):
        await mysql.fetch(writer, statement)
    for user in range(1, 6):
        await mysql.fetch(writer, insert.format(user))
        await (writer.rollback() if user % 2 == 0 else writer.commit())
    consumed: list[Event] = []

    async def consume(event: Event) -> None:
        consumed.append(event)

    spec = Spec(
        events.source(backend_pool), CURSORS.store(backend_pool), Consumer("go", consume), to_head=True
    )
    await run(spec)
    assert [(event.id, event.foreign_id, event.type) for event in consumed] == [
        ("1", "1", 1),
        ("3", "3", 1),
        ("5", "5", 1),
    ]
    assert {event.timestamp for event in consumed} == {datetime(2024, 2, 29, 12, tzinfo=UTC)}
    assert list(await mysql.fetch(writer, "SELECT id, last_event_id FROM cursors")) == [("go", 5)]
    # Both sides insert.
    assert await events.insert(writer, 6, 2) == "6"
    await writer.commit()
    await run(spec)
    assert [event.foreign_id for event in consumed[3:]] == ["6"]
