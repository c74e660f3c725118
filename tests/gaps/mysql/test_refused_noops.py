"""A noop that the table does not accept is an error, and its id is never passed."""

from typing import Any

import pytest

from reflex_aio import TableRefused
from reflex_aio.sql import EventsTable
from tests.gaps.interleaving import reading
from tests.gaps.mysql.interleaving import Writer

pytestmark = pytest.mark.asyncio

HINDRANCES = {
    "check": ("ALTER TABLE events ADD CONSTRAINT real_types CHECK (type > 0)", "real_types"),
    "not null": (
        "ALTER TABLE events ADD COLUMN tenant int NOT NULL",
        "Field 'tenant' doesn't have a default value",
    ),
    "foreign key": (
        "ALTER TABLE events ADD COLUMN tenant int NOT NULL DEFAULT 7, ADD FOREIGN KEY (tenant) REFERENCES tenants (id)",
        "foreign key constraint fails",
    ),
    "signal": (
        (
            "CREATE TRIGGER no_noops BEFORE INSERT ON events FOR EACH ROW IF NEW.type = 0 THEN"
            " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no noops here'; END IF"
        ),
        "no noops here",
    ),
    "another id": (
        (
            "CREATE TRIGGER other_ids BEFORE INSERT ON events FOR EACH ROW IF NEW.type = 0 THEN"
            " SET NEW.id = 0; END IF"
        ),
        "so a trigger may change the row",
    ),
    "another key": (
        "ALTER TABLE events ADD COLUMN kind int AS (IF(foreign_id = 'gap', NULL, type)) STORED UNIQUE",
        "Duplicate entry '0' for key 'kind'",
    ),
}


@pytest.mark.parametrize("hindrance", [*HINDRANCES])
async def test_a_noop_that_the_table_does_not_take_ends_the_stream(
    hindrance: str, events: EventsTable, readers: Any, writer: Writer
) -> None:
    statement, message = HINDRANCES[hindrance]
    await writer.run("CREATE TABLE tenants (id int PRIMARY KEY) ENGINE = InnoDB")
    await writer.run("INSERT INTO tenants VALUES (7)")
    first = await writer.insert("gap")
    await writer.burn()
    await writer.insert("gap")
    await writer.run(statement)
    await writer.run("SET foreign_key_checks = 0")
    await writer.run("DELETE FROM tenants")
    if hindrance == "another key":
        # As the noop's would be.
        await writer.run("INSERT INTO events (foreign_id, type) VALUES ('taken', 0)")
    for _ in range(2):
        # It isn't passed by trying again either.
        async with reading(events.stream(readers)) as reader:
            error = await reader.failure()
            assert reader.ids == [first]
        assert isinstance(error, TableRefused)
        assert "a noop that should fill a gap was not inserted" in str(error)
        assert message in str(error)
