"""Invalid names and settings of tables are refused when the object is made."""

import math
from typing import Any

import asyncpg
import pytest

from reflex_aio.sql import CursorColumns, CursorsTable, EventColumns, EventsTable, LocalNotifier
from tests.sql.wrong_input.given import cursors, table

pytestmark = pytest.mark.asyncio


NAMES = ['a"b', "a;b", "a'b", "a b", "a\0b", "a\nb", "a$b", "a(b", "", "a--\t"]


@pytest.mark.parametrize("name", NAMES)
async def test_names_that_are_not_plain_are_refused_when_the_object_is_made(name: str) -> None:
    message = "is not accepted: a name has letters, digits, _ and - only"
    for make in (EventsTable, CursorsTable):
        with pytest.raises(ValueError, match=message) as raised:
            make(name)
        assert repr(name) in str(raised.value)
        with pytest.raises(ValueError, match=message):
            make(f"{name or ' '}.events")
    for field in ("id", "type", "timestamp", "foreign_id", "metadata", "trace"):
        with pytest.raises(ValueError, match=rf"column name {field}= .*{message}"):
            EventColumns(**{field: name})
    with pytest.raises(ValueError, match=message):
        CursorColumns(last_event_id=name)


async def test_names_that_are_too_long_or_of_the_wrong_kind_are_refused() -> None:
    wrong: Any
    for name in ("x" * 64, "é" * 32, "public." + "x" * 64):
        with pytest.raises(ValueError, match="has 64 bytes: accepted are at most 63"):
            EventsTable(name)
    for name in ("a.b.c", "..", "a.", ".a", "."):
        with pytest.raises(ValueError, match=r"has more than two parts, or an empty one: .* 'schema\.table'"):
            CursorsTable(name)
    for wrong in (None, 7, b"events", ["events"]):
        with pytest.raises(TypeError, match="accepted is a str"):
            EventsTable(wrong)
        with pytest.raises(TypeError, match="accepted is a str"):
            EventColumns(type=wrong)
    with pytest.raises(ValueError, match="column name 'id' is given to two columns"):
        EventColumns(foreign_id="id")


@pytest.mark.parametrize(
    ("argument", "value", "error", "accepted"),
    [
        *(("page_size", size, ValueError, "accepted is an int from 1 to 100000") for size in (0, -1, 100_001)),
        *(("page_size", size, TypeError, "accepted is an int") for size in ("10", 1.5, True, None)),
        *(
            (what, seconds, ValueError, "accepted is a number of seconds above 0")
            for what in ("poll_period", "poll_floor", "query_timeout")
            for seconds in (0, 0.0, -1, math.nan, math.inf)
        ),
        *(
            (what, seconds, TypeError, "accepted is a number of seconds above 0")
            for what in ("poll_period", "poll_floor", "query_timeout")
            for seconds in (None, "1", True)
        ),
        *(("wakeups", way, ValueError, "'commit', 'transaction', 'trigger', None are") for way in ("yes", True)),
        ("notifier", object(), TypeError, "accepted is a Notifier, or None"),
        ("metadata", "meta", TypeError, "a bool, whether the table has this column"),
        ("trace", 1, TypeError, "a bool, whether the table has this column"),
        ("include_noops", 1, TypeError, "accepted is a bool"),
        *((what, "f", TypeError, "accepted is an async function, or None") for what in ("loader", "inserter")),
        ("hooks", object(), TypeError, "accepted is a Hooks, or None"),
        ("clock", 1.0, TypeError, "accepted is a function that returns seconds"),
        ("columns", {"id": "number"}, TypeError, "accepted is an EventColumns, or None"),
        *(("foreign_id", kind, ValueError, "'text', 'bigint' or 'uuid' is") for kind in ("int", int, None)),
    ],
)  # fmt: skip
async def test_invalid_settings_are_refused_when_the_object_is_made(
    argument: str, value: Any, error: type[Exception], accepted: str
) -> None:
    arguments: dict[str, Any] = {argument: value}
    message = rf"^{argument} .*{accepted}"
    with pytest.raises(error, match=message):
        EventsTable("events", **arguments)
    with pytest.raises(error, match=message):
        table.replace(**arguments)


async def test_settings_that_contradict_each_other_are_refused(pool: asyncpg.Pool) -> None:
    with pytest.raises(ValueError, match="wakeups=None means that streams only poll: leave out notifier"):
        EventsTable("events", wakeups=None, notifier=LocalNotifier())
    with pytest.raises(ValueError, match="a standby takes no noops"):
        table.source(pool, primary=pool, fill_gaps=True)
    with pytest.raises(TypeError, match="fill_gaps 1 is a int: accepted is a bool"):
        table.source(pool, fill_gaps=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error", "accepted"),
    [
        (
            {"flush_every": 0},
            ValueError,
            "flush_every 0 is out of range: accepted is a number of seconds above 0",
        ),
        ({"flush_every": math.nan}, ValueError, "flush_every nan is out of range"),
        (
            {"flush_every": "1"},
            TypeError,
            "flush_every '1' is a str: accepted is a number of seconds above 0",
        ),
        ({"flush_every": True}, TypeError, "flush_every True is a bool"),
        ({"flush_every": 1.0, "flush_timeout": 0}, ValueError, "flush_timeout 0 is out of range"),
        ({"flush_every": 1.0, "flush_timeout": None}, TypeError, "flush_timeout None is a NoneType"),
    ],
)
async def test_a_store_takes_durations_in_seconds(
    pool: asyncpg.Pool, arguments: dict[str, Any], error: type[Exception], accepted: str
) -> None:
    with pytest.raises(error, match=accepted):
        cursors.store(pool, **arguments)
