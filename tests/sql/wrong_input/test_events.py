"""Invalid events are refused before a statement is sent to the database."""

from typing import Any

import asyncpg
import pytest

from tests.sql.wrong_input.given import full, table, unchanged

pytestmark = pytest.mark.asyncio


ID = "accepted is the id of the changed row"
TYPE = "accepted is an int or IntEnum"
RANGE = "is out of range: accepted is -2147483648 to 2147483647"
NOOP = "foreign id 0 with type 0 marks a noop, which streams skip: use another type or id"


@pytest.mark.parametrize(
    ("foreign_id", "kind", "error", "message"),
    [
        (None, 1, TypeError, f"foreign id None is a NoneType: {ID}, a str or int"),
        (True, 1, TypeError, f"foreign id True is a bool: {ID}, a str or int"),
        (1.0, 1, TypeError, f"foreign id 1.0 is a float: {ID}, a str or int"),
        (b"1", 1, TypeError, f"foreign id b'1' is a bytes: {ID}, a str or int"),
        ("", 1, ValueError, f"foreign id '' is empty, or contains a NUL or a lone surrogate: {ID}"),
        (
            "a\0b",
            1,
            ValueError,
            f"foreign id 'a\\x00b' is empty, or contains a NUL or a lone surrogate: {ID}",
        ),
        (
            "\ud800",
            1,
            ValueError,
            f"foreign id '\\ud800' is empty, or contains a NUL or a lone surrogate: {ID}",
        ),
        (1, None, TypeError, f"event type None is a NoneType: {TYPE}"),
        (1, True, TypeError, f"event type True is a bool: {TYPE}"),
        (1, "1", TypeError, f"event type '1' is a str: {TYPE}"),
        (1, 1.0, TypeError, f"event type 1.0 is a float: {TYPE}"),
        (1, 2**31, ValueError, f"event type 2147483648 {RANGE}"),
        (1, -(2**31) - 1, ValueError, f"event type -2147483649 {RANGE}"),
        (0, 0, ValueError, NOOP),
        ("0", 0, ValueError, NOOP),
    ],
)
async def test_invalid_events_are_not_inserted(
    writer: asyncpg.Connection, foreign_id: Any, kind: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        await table.insert(writer, foreign_id, kind)
    assert str(raised.value) == message
    with pytest.raises(error) as raised:
        await table.insert_many(writer, [(2, 1), (foreign_id, kind)])
    assert str(raised.value) == message
    assert raised.value.__notes__ == [f"This is event 1 of the argument: {(foreign_id, kind)!r}"]
    await unchanged(writer)


@pytest.mark.parametrize(
    "foreign_id", ["abc", "1.0", "007", "-0", "+1", " 1", 2**63, -(2**63) - 1, "9" * 5000]
)
async def test_foreign_ids_that_are_not_integers_are_not_inserted_into_a_bigint_column(
    writer: asyncpg.Connection, foreign_id: str | int
) -> None:
    numbered = table.replace(foreign_id="bigint")
    message = r"foreign id .* is out of range: events has foreign_id='bigint', so accepted is -9223372036854775808 to"
    for inserting in (
        numbered.insert(writer, foreign_id, 1),
        numbered.insert_many(writer, [(foreign_id, 1)]),
    ):
        with pytest.raises(ValueError, match=message):
            await inserting
    await unchanged(writer)


@pytest.mark.parametrize("wrong", ["text", bytearray(b"m"), memoryview(b"m"), 7, {"a": 1}])
async def test_metadata_and_traces_are_bytes(writer: asyncpg.Connection, wrong: Any) -> None:
    for what in ("metadata", "trace"):
        values: dict[str, Any] = {what: wrong}
        with pytest.raises(TypeError, match=f"{what} is a {type(wrong).__name__}: accepted is bytes or None"):
            await full.insert(writer, 1, 1, **values)
    with pytest.raises(TypeError, match=r"metadata is a .*: accepted is bytes or None"):
        await full.insert_many(writer, [(1, 1, wrong)])
    await unchanged(writer)


@pytest.mark.parametrize("wrong", [7, None, (), (1,), (1, 1, b"m", b"t", 5), {"foreign_id": 1}])
async def test_tuples_that_are_not_events_are_refused(writer: asyncpg.Connection, wrong: Any) -> None:
    with pytest.raises(
        TypeError, match=r"is not an event: accepted is a tuple \(foreign_id, type\[, metadata\[, t"
    ):
        await full.insert_many(writer, [(1, 1), wrong])
    await unchanged(writer)
