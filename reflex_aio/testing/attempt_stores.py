"""The rules that every store of failed attempts keeps."""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias, cast

import anyio

from reflex_aio.attempts import Attempts, AttemptStore
from reflex_aio.testing.cancelling import cancelled_at
from reflex_aio.testing.contract import Contract, expect

__all__ = ["MakeAttemptStore", "attempt_store_rules", "check_attempt_store"]

MakeAttemptStore: TypeAlias = Callable[[], AbstractAsyncContextManager[AttemptStore]]

_AWAITS = 60

_attempts: Contract[AttemptStore] = Contract("the attempt store", ())


def attempt_store_rules() -> dict[str, str]:
    """Return what each rule for attempt stores promises, by the rule's name."""
    return _attempts.promises(())


async def check_attempt_store(
    make_store: MakeAttemptStore, *, rules: Iterable[str] | None = None, within: float = 60.0
) -> None:
    """Check that a store keeps the rules of :class:`~reflex_aio.attempts.AttemptStore`.

    Each rule is checked on a store of its own.

    :param make_store: returns an async context manager that makes a store without attempts
    :param rules: the names of the rules to check; by default all
    :param within: how long a rule may take, in seconds
    :raises ContractBroken: if any rule is broken: with each, what was expected, and what came
    :raises ValueError: if there is no such rule
    """
    await _attempts.check(make_store, lacks=(), rules=rules, within=within)


@_attempts.rule()
async def store_is_an_attempt_store(store: AttemptStore) -> None:
    """A store has the methods of the protocol AttemptStore."""
    if not isinstance(store, AttemptStore):
        raise AssertionError(f"{store!r} lacks one of get, record and clear")


@_attempts.rule()
async def attempts_count_on(store: AttemptStore) -> None:
    """A consumer without attempts has none; each that is recorded counts one more."""
    expect("attempts before", dict(await store.get("a")), {})
    for count in (1, 2, 3):
        await store.record("a", "7", delay=1.0)
        expect("count", (await _one(store)).count, count)


@_attempts.rule()
async def next_attempt_is_due_after_the_last_delay(store: AttemptStore) -> None:
    """The next attempt is due as long after the last one as it was said then, however short."""
    for delay in (1000.0, 3000.0, 2000.5, 0.0):
        await store.record("a", "7", delay=delay)
        left = (await _one(store)).seconds_left
        # A microsecond more is rounding, as of a clock that has seconds as a float.
        about_all = delay - 60 <= left <= delay + 0.000_001
        expect(f"that of {delay} s about all are left, which are {left}", about_all, True)


@_attempts.rule()
async def time_goes_on(store: AttemptStore) -> None:
    """What is left until the next attempt gets less, and negative when it is overdue."""
    await store.record("a", "7", delay=0.05)
    before = (await _one(store)).seconds_left
    await anyio.sleep(0.1)
    after = (await _one(store)).seconds_left
    expect("that the time left is less, and negative", after < before and after < 0, True)


@_attempts.rule()
async def what_is_cleared_begins_anew(store: AttemptStore) -> None:
    """clear() forgets the attempts at one event alone; what isn't there is cleared in silence."""
    for event_id in ("7", "7", "8"):
        await store.record("a", event_id, delay=1.0)
    for _ in range(2):
        await store.clear("a", "7")
        expect("events", set(await store.get("a")), {"8"})
    await store.record("a", "7", delay=1.0)
    expect("count", (await store.get("a"))["7"].count, 1)


@_attempts.rule()
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


@_attempts.rule()
async def attempts_at_once_all_count(store: AttemptStore) -> None:
    """Attempts that are recorded at the same time all count."""
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(lambda: store.record("a", "7", delay=1.0))
    expect("count", (await _one(store)).count, 10)


@_attempts.rule()
async def cancelled_record_is_done_or_not(store: AttemptStore) -> None:
    """A record that is cancelled, wherever it waits, counts once or not at all, and hinders nobody."""
    for step in range(1, _AWAITS):
        event_id = str(step)
        cancelled = await cancelled_at(step, store.record("a", event_id, delay=1.0))
        attempts = (await store.get("a")).get(event_id)
        expect("that it counts once at most", attempts is None or attempts.count == 1, True)
        await store.clear("a", event_id)
        if not cancelled:
            return


@_attempts.rule()
async def what_is_no_attempt_is_refused(store: AttemptStore) -> None:
    """Names, ids and delays that can't be meant raise TypeError or ValueError, and count for nothing."""
    wrong = (
        ("", "7", 1.0),
        ("a", "", 1.0),
        ("a", "7", -1.0),
        ("a", "7", float("nan")),
        ("a", "7", float("inf")),
    )
    for consumer, event_id, delay in (
        *wrong,
        (1, "7", 1.0),
        ("a", 7, 1.0),
        ("a", "7", "1"),
        ("a", "7", None),
    ):
        try:
            await store.record(cast("str", consumer), cast("str", event_id), delay=cast("float", delay))
        except (TypeError, ValueError):
            continue
        raise AssertionError(
            f"expected TypeError or ValueError for record({consumer!r}, {event_id!r}, delay={delay!r})"
        )
    expect("attempts", dict(await store.get("a")), {})


async def _one(store: AttemptStore) -> Attempts:
    attempts = await store.get("a")
    expect("events with attempts", set(attempts), {"7"})
    return attempts["7"]
