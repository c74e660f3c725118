"""Filters made of others, and what comes of their errors."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from reflex_aio import Consumer, Event
from reflex_aio.consumer import EventFilter
from reflex_aio.errors import FilterError, MetadataError
from reflex_aio.filters import all_of, any_of, by_metadata

EVENT = Event("7", 1, "row-7", 0, metadata=b'{"country": "NL"}')
WITHOUT_METADATA = Event("8", 1, "row-8", 0)

FIRST, SECOND = KeyError("first"), KeyError("second")


def yes(event: Event) -> bool:
    return True


def no(event: Event) -> bool:
    return False


def raising(error: Exception) -> EventFilter:
    def fail(event: Event) -> bool:
        raise error

    return fail


async def ignore(event: Event) -> None: ...


first, second = raising(FIRST), raising(SECOND)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((), True),
        ((yes,), True),
        ((no,), False),
        ((yes, yes, yes), True),
        ((yes, no, yes), False),
        ((first,), FIRST),
        ((yes, first), FIRST),
        ((first, second), FIRST),
        ((first, no), FIRST),
        # What isn't asked can't fail.
        ((no, first), False),
    ],
)
def test_all_of_ends_at_the_first_refusal_or_error(filters: Any, expected: bool | Exception) -> None:
    assert outcome(all_of(*filters)) is expected


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((), False),
        ((yes,), True),
        ((no,), False),
        ((no, no, yes), True),
        ((no, no), False),
        ((first,), FIRST),
        ((first, no), FIRST),
        ((first, second), SECOND),
        # Another one lets it through.
        ((first, yes), True),
        ((first, second, yes), True),
        ((yes, first), True),
    ],
)
def test_any_of_raises_the_last_error_if_none_lets_through(filters: Any, expected: bool | Exception) -> None:
    assert outcome(any_of(*filters)) is expected


def outcome(wants: EventFilter) -> bool | Exception:
    try:
        return wants(EVENT)
    except KeyError as exc:
        return exc


def from_the_netherlands(data: Any) -> bool:
    return bool(data["country"] == "NL")


def test_by_metadata_asks_about_what_was_decoded() -> None:
    assert by_metadata(json.loads, from_the_netherlands)(EVENT)
    assert not by_metadata(json.loads, lambda data: "city" in data)(EVENT)


def test_metadata_that_is_not_there_is_decoded_as_empty() -> None:
    assert by_metadata(bytes.decode, lambda text: text == "")(WITHOUT_METADATA)


def test_error_of_the_decoder_and_of_the_predicate_are_told_apart() -> None:
    with pytest.raises(FilterError) as caught:
        Consumer("c", ignore, filter=by_metadata(json.loads, bool)).wants(WITHOUT_METADATA)
    cause = caught.value.__cause__
    assert isinstance(cause, MetadataError)
    assert cause.event_id == "8"
    assert str(cause) == "the metadata of event 8 could not be decoded"
    assert isinstance(cause.__cause__, json.JSONDecodeError)
    with pytest.raises(FilterError) as caught:
        Consumer("c", ignore, filter=by_metadata(json.loads, lambda data: bool(data["city"]))).wants(EVENT)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("wrong", [None, 7, ignore])
def test_what_is_no_plain_function_is_refused_when_built(wrong: Any) -> None:
    builds: list[Callable[[], EventFilter]] = [
        lambda: all_of(yes, wrong),
        lambda: any_of(yes, wrong),
        lambda: by_metadata(wrong, bool),
        lambda: by_metadata(json.loads, wrong),
    ]
    for build in builds:
        with pytest.raises(TypeError, match="accepted is a plain function"):
            build()
