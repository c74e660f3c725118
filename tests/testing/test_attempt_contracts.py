"""The rules for attempt stores: the one in memory keeps them, and for each rule there is a fault that breaks it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from reflex_aio import AttemptStore
from reflex_aio.memory import MemoryAttemptStore
from reflex_aio.testing import ContractBroken, check_attempt_store, rules_of
from tests.testing.faulty_attempts import ATTEMPT_FAULTS, FaultyAttempts

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def memory_attempts() -> AsyncIterator[AttemptStore]:
    yield MemoryAttemptStore()


@pytest.mark.parametrize("rule", rules_of(check_attempt_store))
async def test_attempts_in_memory_keep_the_rule(rule: str) -> None:
    await check_attempt_store(memory_attempts, rules=[rule])


@pytest.mark.parametrize(
    ("rule", "make"), ATTEMPT_FAULTS, ids=lambda part: getattr(part, "__name__", None) or part
)
async def test_a_faulty_attempt_store_breaks_the_rule_named_for_it(rule: str, make: FaultyAttempts) -> None:
    with pytest.raises(ContractBroken) as caught:
        await check_attempt_store(make, rules=[rule], within=2.0)
    assert list(caught.value.broken) == [rule]


async def test_there_is_a_fault_for_each_rule_and_each_promises_something() -> None:
    assert {rule for rule, _ in ATTEMPT_FAULTS} == set(rules_of(check_attempt_store))
    for promise in rules_of(check_attempt_store).values():
        assert promise.endswith("."), promise
