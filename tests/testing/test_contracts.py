"""The rules catch what they are there to catch: for each there are implementations that break it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import pytest

from reflex_aio import CursorStore, Source
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.testing import ContractBroken, check_cursor_store, check_source, rules_of
from reflex_aio.testing.sources import Insert
from tests.testing import faulty_sources, faulty_stores
from tests.testing.faulty_sources import FAULTS as SOURCE_FAULTS
from tests.testing.faulty_stores import FAULTS as STORE_FAULTS

pytestmark = pytest.mark.anyio

T = TypeVar("T")


@asynccontextmanager
async def faultless_source() -> AsyncIterator[tuple[Source, Insert]]:
    source = faulty_sources.Faultless()
    yield source, source.insert


@asynccontextmanager
async def faultless_store() -> AsyncIterator[CursorStore]:
    yield faulty_stores.WritesBehind()


async def test_what_the_faults_are_planted_in_is_faultless() -> None:
    await check_source(faultless_source)
    await check_cursor_store(faultless_store)


@pytest.mark.parametrize(
    ("rule", "make"), SOURCE_FAULTS, ids=lambda part: getattr(part, "__name__", None) or part
)
async def test_a_faulty_source_breaks_the_rule_named_for_it(rule: str, make: faulty_sources.Faulty) -> None:
    with pytest.raises(ContractBroken) as caught:
        await check_source(make, rules=[rule], within=0.5)
    assert list(caught.value.broken) == [rule]


@pytest.mark.parametrize(
    ("rule", "make"), STORE_FAULTS, ids=lambda part: getattr(part, "__name__", None) or part
)
async def test_a_faulty_store_breaks_the_rule_named_for_it(rule: str, make: faulty_stores.Faulty) -> None:
    with pytest.raises(ContractBroken) as caught:
        await check_cursor_store(make, rules=[rule], within=2.0)
    assert list(caught.value.broken) == [rule]


async def test_there_is_a_fault_for_each_rule() -> None:
    assert {rule for rule, _ in SOURCE_FAULTS} == set(rules_of(check_source))
    assert {rule for rule, _ in STORE_FAULTS} == set(rules_of(check_cursor_store))


async def test_a_broken_rule_is_told_with_what_was_expected_and_what_came() -> None:
    make = _faulty(STORE_FAULTS, "ComparesText")
    with pytest.raises(ContractBroken) as caught:
        await check_cursor_store(make, rules=["numbers_are_compared_by_their_values", "consumers_are_apart"])
    assert str(caught.value) == (
        "the cursor store breaks 1 of 2 rules:\n"
        "- numbers_are_compared_by_their_values: The cursor 10 comes after 9.\n"
        "    CursorConflict: a: cursor '10' is not after the stored '9': rewind() moves it backwards"
    )
    assert caught.value.__cause__ is caught.value.broken["numbers_are_compared_by_their_values"]


async def test_all_broken_rules_are_told_at_once() -> None:
    make = _faulty(SOURCE_FAULTS, "IgnoresLag")
    with pytest.raises(ContractBroken, match=f"breaks 2 of {len(rules_of(check_source))} rules") as caught:
        await check_source(make)
    assert list(caught.value.broken) == ["lag_delays_young_events", "head_has_the_age_of_the_lag"]
    assert "ids to the head, with a lag of 3600 s: expected [], got ['1', '2']" in str(caught.value)
    assert isinstance(caught.value.__cause__, ExceptionGroup)


async def test_rules_are_left_out_whose_features_are_lacking() -> None:
    make = _faulty(SOURCE_FAULTS, "IgnoresLag")
    await check_source(make, lacks=["lag"])
    assert rules_of(check_source).keys() - rules_of(check_source, lacks=["lag", "head"]).keys() == {
        "lag_delays_young_events",
        "head_has_the_age_of_the_lag",
        "head_is_the_newest_event",
        "head_of_an_empty_source_is_empty",
        "head_of_an_empty_source_precedes_all_events",
    }
    assert "rewind_moves_it_anywhere" not in rules_of(check_cursor_store, lacks=["rewind"])


async def test_rules_and_features_that_there_are_none_of_are_refused() -> None:
    with pytest.raises(
        ValueError, match="there is no rule 'x': accepted are source_is_a_source, events_come"
    ):
        await check_source(faultless_source, rules=["x"])
    with pytest.raises(ValueError, match="lacks 'x': accepted are 'order', 'rewind'"):
        await check_cursor_store(faultless_store, lacks=["x"])  # type: ignore[list-item]


async def test_what_fails_in_making_the_source_is_no_broken_rule() -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[tuple[Source, Insert]]:
        events = MemoryEvents()
        if not await events.head():
            raise OSError("no database")
        yield events, events.insert

    with pytest.raises(OSError, match="no database"):
        await check_source(make)


async def test_a_rule_is_given_up_that_takes_too_long() -> None:
    class Hangs(MemoryCursorStore):
        async def get(self, name: str) -> str:
            await anyio.sleep_forever()
            return ""

    @asynccontextmanager
    async def make() -> AsyncIterator[CursorStore]:
        yield Hangs()

    with pytest.raises(ContractBroken, match=r"TimeoutError: not done within 0\.05 s"):
        await check_cursor_store(make, rules=["new_consumer_has_no_cursor"], within=0.05)


async def test_every_rule_promises_something() -> None:
    for promise in (*rules_of(check_source).values(), *rules_of(check_cursor_store).values()):
        assert promise.endswith("."), promise


def _faulty(faults: list[tuple[str, T]], name: str) -> T:
    return next(make for _, make in faults if getattr(make, "__name__", "") == name)
