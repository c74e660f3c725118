"""The rules for leases: those in memory keep them, and for each rule there is a fault that breaks it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from reflex_aio import CursorStore, LeaseStore
from reflex_aio.memory import MemoryCursorStore, MemoryLeaseStore
from reflex_aio.testing import ContractBroken, check_fenced_store, check_lease_store, rules_of
from tests.testing.faulty_leases import FENCE_FAULTS, LEASE_FAULTS, FaultyFence, FaultyLeases

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def memory_leases() -> AsyncIterator[LeaseStore]:
    yield MemoryLeaseStore()


@asynccontextmanager
async def memory_stores() -> AsyncIterator[tuple[CursorStore, LeaseStore]]:
    yield MemoryCursorStore(), MemoryLeaseStore()


@pytest.mark.parametrize("rule", rules_of(check_lease_store))
async def test_leases_in_memory_keep_the_rule(rule: str) -> None:
    await check_lease_store(memory_leases, rules=[rule])


@pytest.mark.parametrize("rule", rules_of(check_fenced_store))
async def test_cursors_in_memory_keep_the_rule(rule: str) -> None:
    await check_fenced_store(memory_stores, rules=[rule])


@pytest.mark.parametrize(
    ("rule", "make"), LEASE_FAULTS, ids=lambda part: getattr(part, "__name__", None) or part
)
async def test_a_faulty_lease_store_breaks_the_rule_named_for_it(rule: str, make: FaultyLeases) -> None:
    with pytest.raises(ContractBroken) as caught:
        await check_lease_store(make, rules=[rule], within=2.0)
    assert list(caught.value.broken) == [rule]


@pytest.mark.parametrize(
    ("rule", "make"), FENCE_FAULTS, ids=lambda part: getattr(part, "__name__", None) or part
)
async def test_a_faulty_fence_breaks_the_rule_named_for_it(rule: str, make: FaultyFence) -> None:
    with pytest.raises(ContractBroken) as caught:
        await check_fenced_store(make, rules=[rule], within=2.0)
    assert list(caught.value.broken) == [rule]


async def test_there_is_a_fault_for_each_rule_and_each_promises_something() -> None:
    assert {rule for rule, _ in LEASE_FAULTS} == set(rules_of(check_lease_store))
    assert {rule for rule, _ in FENCE_FAULTS} == set(rules_of(check_fenced_store))
    for promise in (*rules_of(check_lease_store).values(), *rules_of(check_fenced_store).values()):
        assert promise.endswith("."), promise
