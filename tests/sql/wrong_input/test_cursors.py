"""Invalid cursors, options and names of streams are refused, locally and over gRPC."""

import math
from typing import Any

import asyncpg
import pytest

from reflex_aio import Consumer, CursorAhead, Event, InvalidCursor, RemoteError, Spec
from reflex_aio.errors import UnknownStream
from reflex_aio.rpc import RemoteSource, StreamServer
from tests.rpc.serving import serving
from tests.sql.wrong_input.given import cursors, first, table, unchanged

pytestmark = pytest.mark.asyncio


NO_CURSORS = [
    "x",
    "1.5",
    "-1",
    "+1",
    " 1",
    "1 ",
    "1_000",
    "0x1",
    "٣",
    "1\0",
    "1; DROP TABLE events",
    str(2**63),
    "9" * 100_000,
]


async def consume(event: Event) -> None:
    raise AssertionError(f"consumed {event}")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lag": -1}, ValueError, "lag -1 is out of range: accepted is a number of seconds from 0, or None"),
        ({"lag": math.nan}, ValueError, "lag nan is out of range"),
        ({"lag": math.inf}, ValueError, "lag inf is out of range"),
        ({"lag": "5"}, TypeError, "lag '5' is a str: accepted is a number of seconds from 0, or None"),
        ({"from_head": 1}, TypeError, "from_head 1 is a int: accepted is a bool"),
        ({"to_head": "yes"}, TypeError, "to_head 'yes' is a str: accepted is a bool"),
    ],
)
async def test_options_are_refused_when_the_stream_or_the_spec_is_made(
    pool: asyncpg.Pool, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        table.stream(pool, **options)
    with pytest.raises(error, match=message):
        table.source(pool).stream(**options)
    with pytest.raises(error, match=message):
        Spec(table.source(pool), cursors.store(pool), Consumer("c", consume), **options)


# Cursors, locally and over gRPC.


@pytest.mark.parametrize("cursor", [*NO_CURSORS, None, 7, b"7"], ids=lambda cursor: str(cursor)[:20])
async def test_a_cursor_that_is_not_an_event_id_is_refused(
    writer: asyncpg.Connection, pool: asyncpg.Pool, cursor: Any
) -> None:
    message = (
        'is not a cursor: accepted is an event id, from "0" to "9223372036854775807", or "" for the beginning'
    )
    for options in ({}, {"from_head": True}, {"to_head": True}):
        with pytest.raises(InvalidCursor, match=message) as raised:
            table.stream(pool, cursor, **options)
        assert raised.value.cursor == cursor
        assert len(str(raised.value)) < 250
    store = cursors.store(pool)
    with pytest.raises((InvalidCursor, TypeError), match="accepted is a str"):
        await store.set("a", cursor)
    await unchanged(writer)


@pytest.mark.parametrize("pages", [True, False], ids=["pages", "single"])
@pytest.mark.parametrize("cursor", NO_CURSORS, ids=lambda cursor: cursor[:20])
async def test_invalid_cursors_are_refused_over_grpc_too(
    writer: asyncpg.Connection, pool: asyncpg.Pool, cursor: str, pages: bool
) -> None:
    async with serving(StreamServer({"events": table.source(pool)})) as channel:
        with pytest.raises(
            InvalidCursor, match="is not a cursor: accepted is one of the remote stream's"
        ) as raised:
            await first(RemoteSource(channel, "events", pages=pages), cursor)
        assert raised.value.cursor == cursor
        assert (await first(RemoteSource(channel, "events", pages=pages))).id == "1"


@pytest.mark.parametrize("cursor", ["2", "100", str(2**63 - 1)])
async def test_the_error_for_a_cursor_ahead_of_the_table_names_possible_causes(
    writer: asyncpg.Connection, pool: asyncpg.Pool, cursor: str
) -> None:
    message = (
        f"events: cursor {cursor} is ahead of the table, whose last id is 1: was it truncated or restored"
    )
    with pytest.raises(CursorAhead, match=message) as raised:
        await first(table.source(pool), cursor)
    assert (raised.value.table, raised.value.cursor, raised.value.last) == ("events", cursor, "1")
    async with serving(StreamServer(table.source(pool))) as channel:
        for pages in (True, False):
            with pytest.raises(RemoteError, match=f"FAILED_PRECONDITION: {message}"):
                await first(RemoteSource(channel, pages=pages), cursor)


async def test_an_unknown_stream_is_refused_with_the_names_of_the_existing_ones(
    writer: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    source = table.source(pool)
    async with serving(StreamServer({"users": source, "payments": source})) as channel:
        for pages in (True, False):
            with pytest.raises(UnknownStream, match="no stream named 'user': there are 'users', 'payments'"):
                await first(RemoteSource(channel, "user", pages=pages))
            with pytest.raises(
                UnknownStream, match=r"has several streams, .* reflex-stream: 'users', 'payments'"
            ):
                await first(RemoteSource(channel, pages=pages))
    async with serving(StreamServer(source)) as channel:
        with pytest.raises(UnknownStream, match="no stream named 'users': there are none with a name"):
            await first(RemoteSource(channel, "users"))


async def test_a_missing_table_is_logged_by_the_server_and_hidden_from_clients(
    pool: asyncpg.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(StreamServer(table.source(pool))) as channel:
        with pytest.raises(RemoteError, match="INTERNAL: the event stream failed in the server"):
            await first(RemoteSource(channel))
    assert "events: the table does not exist" in caplog.text


# Specs.
