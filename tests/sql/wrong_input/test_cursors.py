"""Invalid cursors, options and names of streams are refused, locally and over gRPC."""

import math
from typing import Any

import asyncpg
import pytest

from reflex_aio import Consumer, CursorAhead, Event, InvalidCursor, Spec
from reflex_aio.errors import TableNotFound, UnknownStream
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
        ({"lag": -1}, ValueError, r"lag -1 is out of range: accepted is .* from 0, up to 1e\+09, or None"),
        ({"lag": 1e12}, ValueError, r"lag 1.* is out of range: accepted is .* from 0, up to 1e\+09, or None"),
        ({"lag": math.nan}, ValueError, "lag nan is out of range"),
        ({"lag": math.inf}, ValueError, "lag inf is out of range"),
        ({"lag": "5"}, TypeError, r"lag '5' is a str: accepted is .* from 0, up to 1e\+09, or None"),
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
        with pytest.raises(InvalidCursor) as raised:
            await first(RemoteSource(channel, "events", pages=pages), cursor)
        with pytest.raises(InvalidCursor) as local:
            await first(table.source(pool), cursor)
        assert str(raised.value) == str(local.value)
        assert vars(raised.value) == vars(local.value)
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
            with pytest.raises(CursorAhead) as remote:
                await first(RemoteSource(channel, pages=pages), cursor)
            assert str(remote.value) == str(raised.value)
            assert vars(remote.value) == vars(raised.value)


async def test_an_unknown_stream_is_refused_without_the_names_of_the_existing_ones(
    writer: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    source = table.source(pool)
    async with serving(StreamServer({"users": source, "payments": source})) as channel:
        for pages in (True, False):
            for name, message in (("user", "there is no stream named 'user'"), (None, "has several streams")):
                with pytest.raises(UnknownStream, match=message) as refused:
                    await first(RemoteSource(channel, name, pages=pages))
                assert "users" not in str(refused.value)
                assert "payments" not in str(refused.value)
    async with serving(StreamServer(source)) as channel:
        with pytest.raises(UnknownStream, match="no stream named 'users'"):
            await first(RemoteSource(channel, "users"))


async def test_a_missing_table_is_logged_by_the_server_and_reported_to_the_client(
    pool: asyncpg.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(StreamServer(table.source(pool))) as channel:
        with pytest.raises(TableNotFound) as raised:
            await first(RemoteSource(channel))
    assert raised.value.table == "events"
    assert "events: the table does not exist" in caplog.text


# Specs.
