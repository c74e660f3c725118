"""Errors say what happened, carry the values, and are drawn in their module's docstring."""

import copy
import pickle
import re

import pytest

from reflex_aio import errors
from reflex_aio.errors import (
    ConnectionLost,
    CursorAhead,
    CursorConflict,
    DatabaseError,
    ErrorNotFound,
    EventNotFound,
    FilterError,
    InvalidCursor,
    LeaseLost,
    MessageTooLarge,
    MetadataError,
    ReflexError,
    RemoteError,
    SchemaError,
    StreamClosed,
    StreamStopped,
    TableNotFound,
    TableRefused,
    TableReplaced,
    UnknownStream,
    is_expected,
)

ONE_OF_EACH = [
    ConnectionLost("gone"),
    CursorAhead(table="t", cursor="9", last="5"),
    CursorConflict(consumer="c", stored="5", given="4"),
    DatabaseError("bad"),
    ErrorNotFound(table="t", error_id="7"),
    EventNotFound(source="s", event_id="7"),
    FilterError(consumer="c", event_id="7"),
    InvalidCursor("x", "a number"),
    LeaseLost(name="a", owner="me", epoch=3),
    MessageTooLarge("large"),
    MetadataError(event_id="7"),
    ReflexError("some"),
    RemoteError("bad", code="INTERNAL"),
    SchemaError(table="t", differences=["a", "b"]),
    StreamClosed(),
    StreamStopped(),
    TableNotFound(table="t"),
    TableRefused(table="t", reason="it cycles", remedy="NO CYCLE"),
    TableReplaced(table="t", what="it was dropped"),
    UnknownStream("which?", name="x"),
]
IDS = [type(error).__name__ for error in ONE_OF_EACH]


def test_docstring_draws_the_tree_as_it_is() -> None:
    assert errors.__doc__ is not None
    parents = {0: "Exception"}
    drawn = {}
    for line in errors.__doc__.splitlines():
        if match := re.match(r"    ([│ ]*)(?:[├└]── )?([A-Z]\w+)(?:  |$)", line):
            depth = len(match[1]) // 4 + ("──" in line)
            drawn[match[2]] = parents[depth]
            parents[depth + 1] = match[2]
    actual = {
        kind.__name__: kind.__bases__[0].__name__
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, BaseException)
    }
    assert drawn == actual


def test_all_names_every_error_in_order() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == errors.__name__
    }
    assert set(errors.__all__) == defined
    assert errors.__all__ == sorted(errors.__all__)
    assert {type(error).__name__ for error in ONE_OF_EACH} == defined - {"is_expected"}


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=IDS)
def test_error_survives_copying_and_pickling(error: ReflexError) -> None:
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert other.args == error.args
        assert vars(other) == vars(error)


def test_cursor_conflict_tells_a_move_backwards_from_another_place_than_expected() -> None:
    backwards = CursorConflict(consumer="c", stored="5", given="4")
    assert str(backwards) == "c: cursor '4' is not after the stored '5': rewind() moves it backwards"
    assert (backwards.consumer, backwards.stored, backwards.given, backwards.expected) == (
        "c",
        "5",
        "4",
        None,
    )
    elsewhere = CursorConflict(consumer="c", stored="5", given="8", expected="")
    assert str(elsewhere) == "c: the stored cursor is '5', not '': not moved to '8'"
    assert elsewhere.expected == ""


def test_cursor_ahead_of_an_empty_table_says_so() -> None:
    assert "whose last id is none:" in str(CursorAhead(table="t", cursor="9", last=""))
    assert "whose last id is 5:" in str(CursorAhead(table="t", cursor="9", last="5"))


def test_invalid_cursor_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="'x' is not a cursor: accepted is a number"):
        raise InvalidCursor("x", "a number")


def test_schema_error_lists_the_differences() -> None:
    error = SchemaError(table="t", differences=["no column id", "no column type"])
    assert str(error) == "t: no column id; no column type"
    assert error.differences == ("no column id", "no column type")
    assert isinstance(TableNotFound(table="t"), SchemaError)


def test_table_that_is_not_found_for_its_capitals_says_so() -> None:
    assert "case counts" in str(TableNotFound(table="UserEvents"))
    assert "case counts" not in str(TableNotFound(table="user_events"))


def test_table_refused_says_what_to_do() -> None:
    assert str(TableRefused(table="t", reason="it cycles", remedy="NO CYCLE")) == "t: it cycles: NO CYCLE"


@pytest.mark.parametrize("error", [*ONE_OF_EACH, ValueError("x"), KeyboardInterrupt()])
def test_only_what_a_restart_mends_is_expected(error: BaseException) -> None:
    assert is_expected(error) is isinstance(error, (StreamStopped, ConnectionLost))
