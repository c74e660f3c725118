"""The rules for attempt stores."""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import cast

import anyio

from reflex_aio.attempts import Attempts, AttemptStore
from reflex_aio.testing.contract import Contract, cancelled_at, expect

__all__ = ["check_attempt_store"]

_WAITS = 60

_contract: Contract[AttemptStore] = Contract("the attempt store", ())


@_contract.checked_by
async def check_attempt_store(
    make_store: Callable[[], AbstractAsyncContextManager[AttemptStore]],
    *,
    rules: Iterable[str] | None = None,
    within: float = 60.0,
) -> None:
    """Check that a store keeps the rules of :class:`~reflex_aio.attempts.AttemptStore`.

    Each rule is checked on a store of its own.

    :param make_store: returns an async context manager that makes a store without attempts
    :param rules: the names of the rules to check; by default all
    :param within: time limit for a rule, in seconds
    :raises ContractBroken: if any rule is broken; the message has the expected and the actual result of each
    :raises ValueError: if there is no such rule
    """
    await _contract.check(make_store, rules=rules, within=within)


@_contract.rule()
async def store_is_an_attempt_store(store: AttemptStore) -> None:
    """A store is a subclass of AttemptStore."""
    if not isinstance(store, AttemptStore):
        raise AssertionError(f"{store!r} is not an AttemptStore")


@_contract.rule()
async def attempts_are_counted(store: AttemptStore) -> None:
    """A consumer has no attempts at first; each recorded attempt counts."""
    expect("attempts before", dict(await store.get("a")), {})
    for count in (1, 2, 3):
        await store.record("a", "7", delay=1.0)
        expect("count", (await _one(store)).count, count)


@_contract.rule()
async def next_attempt_is_due_after_the_last_delay(store: AttemptStore) -> None:
    """The next attempt is due after the delay of the last one, whatever the delays before."""
    for delay in (1000.0, 3000.0, 2000.5, 0.0):
        await store.record("a", "7", delay=delay)
        left = (await _one(store)).seconds_left
        # A microsecond more is rounding, for example of a clock with seconds as a float.
        about_all = delay - 60 <= left <= delay + 0.000_001
        expect(f"whether {left} s of {delay} s are about all", about_all, True)


@_contract.rule()
async def time_left_decreases(store: AttemptStore) -> None:
    """The time until the next attempt decreases, and is negative when the attempt is overdue."""
    await store.record("a", "7", delay=0.05)
    before = (await _one(store)).seconds_left
    await anyio.sleep(0.1)
    after = (await _one(store)).seconds_left
    expect("whether the time left is less, and negative", after < before and after < 0, True)


@_contract.rule()
async def cleared_attempts_are_gone(store: AttemptStore) -> None:
    """clear() deletes the attempts at one event only, and is no error without attempts."""
    for event_id in ("7", "7", "8"):
        await store.record("a", event_id, delay=1.0)
    for _ in range(2):
        await store.clear("a", "7")
        expect("events", set(await store.get("a")), {"8"})
    await store.record("a", "7", delay=1.0)
    expect("count", (await store.get("a"))["7"].count, 1)


@_contract.rule()
async def consumers_and_events_are_apart(store: AttemptStore) -> None:
    """Each consumer has attempts of its own at each event, whatever their names."""
    names = ("a", "A", "b 1", "\u00e9\u2028", "'; --", "%s", "a_1_of_2", "x" * 200)
    for number, name in enumerate(names, start=1):
        for _ in range(number):
            await store.record(name, name, delay=1.0)
            await store.record(name, "7", delay=1.0)
    for number, name in enumerate(names, start=1):
        counts = {event_id: attempts.count for event_id, attempts in (await store.get(name)).items()}
        expect(f"counts of {name!r}", counts, {name: number, "7": number})
    await store.clear("a", "7")
    expect("events of another consumer", set(await store.get("A")), {"A", "7"})


@_contract.rule()
async def concurrent_attempts_are_all_counted(store: AttemptStore) -> None:
    """Attempts that are recorded at the same time all count."""
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(lambda: store.record("a", "7", delay=1.0))
    expect("count", (await _one(store)).count, 10)


@_contract.rule()
async def cancelled_record_is_done_or_not(store: AttemptStore) -> None:
    """A record that is cancelled, at any wait, counts once or not at all, and does not affect later calls."""
    for step in range(1, _WAITS):
        event_id = str(step)
        cancelled = await cancelled_at(step, store.record("a", event_id, delay=1.0))
        attempts = (await store.get("a")).get(event_id)
        expect("whether it counts at most once", attempts is None or attempts.count == 1, True)
        await store.clear("a", event_id)
        if not cancelled:
            return


@_contract.rule()
async def invalid_attempt_is_refused(store: AttemptStore) -> None:
    """Invalid names, ids and delays raise TypeError or ValueError, and are not counted."""
    out_of_range = (
        ("", "7", 1.0),
        ("a", "", 1.0),
        ("a", "7", -1.0),
        ("a", "7", float("nan")),
        ("a", "7", float("inf")),
    )
    wrong_types = ((1, "7", 1.0), ("a", 7, 1.0), ("a", "7", "1"), ("a", "7", None))
    for consumer, event_id, delay in (*out_of_range, *wrong_types):
        try:
            await store.record(cast("str", consumer), cast("str", event_id), delay=cast("float", delay))
        except (TypeError, ValueError):
            continue
        call = f"record({consumer!r}, {event_id!r}, delay={delay!r})"
        raise AssertionError(f"{call}: expected TypeError or ValueError, got none")
    expect("attempts", dict(await store.get("a")), {})


async def _one(store: AttemptStore) -> Attempts:
    attempts = await store.get("a")
    expect("events with attempts", set(attempts), {"7"})
    return attempts["7"]
