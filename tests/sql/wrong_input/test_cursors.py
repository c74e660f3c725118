"""Cursors, options and names of streams that are none are refused, here and over gRPC."""

import math
from typing import Any

import asyncpg
import pytest

from reflex_aio import (
    Consumer,
    CursorAhead,
    Event,
    InvalidCursor,
    RemoteError,
    Spec,
    UnknownStream,
)
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
    ("options", "error", "told"),
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
    pool: asyncpg.Pool, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        table.stream(pool, **options)
    with pytest.raises(error, match=told):
        table.source(pool).stream(**options)
    with pytest.raises(error, match=told):
        Spec(table.source(pool), cursors.store(pool), Consumer("c", consume), **options)


# Cursors, here and over gRPC.


@pytest.mark.parametrize("cursor", [*NO_CURSORS, None, 7, b"7"], ids=lambda cursor: str(cursor)[:20])
async def test_what_is_no_event_id_is_no_cursor(
    writer: asyncpg.Connection, pool: asyncpg.Pool, cursor: Any
) -> None:
    told = (
        'is not a cursor: accepted is an event id, from "0" to "9223372036854775807", or "" for the beginning'
    )
    for options in ({}, {"from_head": True}, {"to_head": True}):
        with pytest.raises(InvalidCursor, match=told) as raised:
            table.stream(pool, cursor, **options)
        assert raised.value.cursor == cursor
        assert len(str(raised.value)) < 250
    store = cursors.store(pool)
    with pytest.raises((InvalidCursor, TypeError), match="accepted is a str"):
        await store.set("a", cursor)
    await unchanged(writer)


@pytest.mark.parametrize("pages", [True, False], ids=["pages", "single"])
@pytest.mark.parametrize("cursor", NO_CURSORS, ids=lambda cursor: cursor[:20])
async def test_what_is_no_cursor_here_is_none_over_grpc(
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
async def test_a_cursor_ahead_of_the_table_says_what_may_have_happened(
    writer: asyncpg.Connection, pool: asyncpg.Pool, cursor: str
) -> None:
    told = f"events: cursor {cursor} is ahead of the table, whose last id is 1: was it truncated or restored"
    with pytest.raises(CursorAhead, match=told) as raised:
        await first(table.source(pool), cursor)
    assert (raised.value.table, raised.value.cursor, raised.value.last) == ("events", cursor, "1")
    async with serving(StreamServer(table.source(pool))) as channel:
        for pages in (True, False):
            with pytest.raises(RemoteError, match=f"FAILED_PRECONDITION: {told}"):
                await first(RemoteSource(channel, pages=pages), cursor)


async def test_an_unknown_stream_is_refused_with_the_names_of_those_there_are(
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


async def test_a_missing_table_is_the_servers_own_affair(
    pool: asyncpg.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(StreamServer(table.source(pool))) as channel:
        with pytest.raises(RemoteError, match="INTERNAL: the event stream failed in the server"):
            await first(RemoteSource(channel))
    assert "events: the table does not exist" in caplog.text


# Specs.
