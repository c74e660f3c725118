"""Foreign ids that are UUIDs: stored in a column of type uuid or as text, read back, and kept apart from noops."""

from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest

from reflex_aio import Event
from reflex_aio.errors import SchemaError
from reflex_aio.sql import EventsTable, transaction
from tests.fix_backends import Backend

pytestmark = pytest.mark.asyncio

orders = EventsTable("order_events", foreign_id="uuid", poll_period=0.1)
texts = EventsTable("text_events")

A, B, C = (UUID(int=2**127 + number) for number in (1, 2, 3))
NIL = UUID(int=0)


class Undo(Exception):
    """Rolls back a transaction."""


async def test_uuids_are_stored_and_read_back_in_order(backend: Backend, backend_pool: Any) -> None:
    connection = await backend.connect()
    await orders.create(connection)
    await orders.validate(connection)
    await orders.insert(connection, A, 1)
    await orders.insert(connection, str(B).upper(), 1)
    await orders.insert_many(connection, [(C, 1), (A, 2)])
    await orders.insert_many(connection, [(str(B), 2), (NIL, 2)])
    async with orders.stream(backend_pool, to_head=True) as stream:
        events = [event async for event in stream]
    assert [event.foreign_id_uuid for event in events] == [A, B, C, A, B, NIL]
    assert [event.foreign_id for event in events[:2]] == [str(A), str(B)]


@pytest.mark.parametrize("fill_gaps", [False, True])
async def test_a_rollback_in_a_table_of_uuids_is_passed(
    backend: Backend, backend_pool: Any, fill_gaps: bool
) -> None:
    connection = await backend.connect()
    await orders.create(connection)
    await orders.insert(connection, A, 1)
    with suppress(Undo):
        async with transaction(connection):
            await orders.insert(connection, B, 1)
            raise Undo
    await orders.insert(connection, C, 1)
    async with orders.stream(backend_pool, fill_gaps=fill_gaps) as stream:
        assert [(await anext(stream)).foreign_id_uuid for _ in range(2)] == [A, C]
    # Noops count neither as backlog nor for retention.
    [backlog] = (await orders.backlogs(connection, [""])).values()
    assert backlog.events == 2


async def test_a_uuid_may_be_stored_as_text(backend: Backend, backend_pool: Any) -> None:
    connection = await backend.connect()
    await texts.create(connection)
    await texts.insert(connection, A, 1)
    await texts.insert_many(connection, [(B, 1), (C, 1)])
    await texts.insert_many(connection, [(A, 1), ("x", 1)])
    async with texts.stream(backend_pool, to_head=True) as stream:
        events = [event async for event in stream]
    assert [event.foreign_id_uuid for event in events] == [A, B, C, A, None]


@pytest.mark.parametrize("given", [7, "7", "", "x" * 36, A.hex, f"{{{A}}}"])
async def test_what_is_no_uuid_is_refused_before_anything_is_sent(backend: Backend, given: str | int) -> None:
    connection = await backend.connect()
    await orders.create(connection)
    with pytest.raises(ValueError, match="foreign id"):
        await orders.insert(connection, given, 1)
    with pytest.raises(ValueError, match="foreign id") as caught:
        await orders.insert_many(connection, [(A, 1), (given, 1)])
    assert "event 1" in caught.value.__notes__[0]
    assert (await orders.extent(connection)).newest == ""


async def test_a_column_of_uuids_is_declared(backend: Backend) -> None:
    connection = await backend.connect()
    await orders.create(connection)
    undeclared = EventsTable("order_events")
    with pytest.raises(SchemaError, match=r"is uuid.*foreign_id='uuid' for UUIDs"):
        await undeclared.validate(connection)
    assert (await undeclared.as_found(connection)).schema.foreign_id == "uuid"


async def test_the_nil_uuid_with_type_0_is_refused_as_it_marks_a_noop(backend: Backend) -> None:
    connection = await backend.connect()
    await orders.create(connection)
    with pytest.raises(ValueError, match="marks a noop"):
        await orders.insert(connection, NIL, 0)


async def test_only_the_usual_text_of_a_uuid_is_read_as_one() -> None:
    def uuid_of(text: str) -> UUID | None:
        return Event("1", 1, text, 0).foreign_id_uuid

    assert uuid_of(str(A)) == uuid_of(str(A).upper()) == A
    assert [uuid_of(text) for text in (A.hex, f"{{{A}}}", f"urn:uuid:{A}", "7", "")] == [None] * 5
