"""The rules for cursor stores."""

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, TypeAlias, cast, get_args

import anyio

from reflex_aio.cursor import CursorStore
from reflex_aio.errors import CursorConflict
from reflex_aio.lease import Lease
from reflex_aio.testing.contract import Contract, cancelled_at, expect

__all__ = ["check_cursor_store"]

Feature: TypeAlias = Literal["order", "rewind"]
"""Features that a store may lack: comparing two numbers, so that cursors do not move backwards; and a method
``rewind(name, cursor)``, which moves them anywhere."""

_WAITS = 60


class _Rewindable(Protocol):
    async def rewind(self, name: str, cursor: str) -> None: ...


_contract: Contract[CursorStore] = Contract("the cursor store", get_args(Feature))


@_contract.checked_by
async def check_cursor_store(
    make_store: Callable[[], AbstractAsyncContextManager[CursorStore]],
    *,
    lacks: Collection[Feature] = (),
    rules: Iterable[str] | None = None,
    within: float = 60.0,
) -> None:
    """Check that a store keeps the rules of :class:`~reflex_aio.cursor.CursorStore`.

    Each rule is checked on a store of its own, which is entered as :func:`~reflex_aio.run` does. Cursors are the ids 1
    to 100, as strings. For stores that compare leases see :func:`check_fenced_store` too.

    :param make_store: returns an async context manager that makes a store without cursors
    :param lacks: the features that the store lacks; rules that need them are left out
    :param rules: the names of the rules to check; by default all
    :param within: time limit for a rule, in seconds
    :raises ContractBroken: if any rule is broken; the message has the expected and the actual result of each
    :raises ValueError: if there is no such rule or feature
    """
    await _contract.check(make_store, lacks=lacks, rules=rules, within=within)


@_contract.rule()
async def store_is_a_cursor_store(store: CursorStore) -> None:
    """A store is a subclass of CursorStore."""
    if not isinstance(store, CursorStore):
        raise AssertionError(f"{store!r} is not a CursorStore")


@_contract.rule()
async def new_consumer_has_no_cursor(store: CursorStore) -> None:
    """The cursor of a consumer that has none is ""."""
    async with store:
        expect("cursor", await store.get("a"), "")
        expect("all cursors", dict(await store.all()), {})


@_contract.rule()
async def cursor_is_where_it_was_set(store: CursorStore) -> None:
    """get() returns the cursor that was set last, at once, flushed or not."""
    async with store:
        for cursor in ("1", "2", "7"):
            await store.set("a", cursor)
            expect("cursor", await store.get("a"), cursor)


@_contract.rule()
async def consumers_are_apart(store: CursorStore) -> None:
    """Each consumer has a cursor of its own, whatever its name."""
    names = ("a", "A", "b 1", "\u00e9\u2028", "'; --", "%s", "a_1_of_2", "x" * 200)
    async with store:
        for number, name in enumerate(names, 1):
            await store.set(name, str(number))
        for number, name in enumerate(names, 1):
            expect(f"cursor of {name!r}", await store.get(name), str(number))
        expect("cursor of another", await store.get("c"), "")


@_contract.rule()
async def flushed_cursors_are_stored(store: CursorStore) -> None:
    """After flush(), every cursor that was set is stored, and returned by all()."""
    async with store:
        await store.set("a", "7")
        await store.set("b", "3")
        await store.flush()
        expect("all cursors", dict(await store.all()), {"a": "7", "b": "3"})
        await store.flush()


@_contract.rule()
async def leaving_stores_the_cursors(store: CursorStore) -> None:
    """A store that is entered several times works until the last exit, and each exit stores the cursors."""
    async with store:
        async with store:
            await store.set("a", "7")
        expect("all cursors, after the first exit", dict(await store.all()), {"a": "7"})
        await store.set("a", "8")
        expect("cursor, after the first exit", await store.get("a"), "8")
    expect("all cursors, after the last exit", dict(await store.all()), {"a": "8"})


@_contract.rule()
async def result_of_all_does_not_change(store: CursorStore) -> None:
    """The result of all() does not change when cursors are set later."""
    async with store:
        await store.set("a", "7")
        await store.flush()
        result = await store.all()
        await store.set("a", "8")
        await store.set("b", "1")
        await store.flush()
        expect("earlier result of all()", dict(result), {"a": "7"})


@_contract.rule()
async def setting_the_same_cursor_is_no_error(store: CursorStore) -> None:
    """A cursor may be set to its present value."""
    async with store:
        for _ in range(2):
            await store.set("a", "7")
        await store.set("a", "7", expected="7")
        expect("cursor", await store.get("a"), "7")


@_contract.rule("order")
async def cursor_does_not_move_backwards(store: CursorStore) -> None:
    """A cursor does not move backwards: CursorConflict is raised, with the stored cursor."""
    async with store:
        await store.set("a", "7")
        await _expect_conflict(store, "6", stored="7")


@_contract.rule("order")
async def numbers_are_compared_by_their_values(store: CursorStore) -> None:
    """The cursor 10 comes after 9."""
    async with store:
        await store.set("a", "9")
        await store.set("a", "10")
        await _expect_conflict(store, "9", stored="10")


@_contract.rule()
async def unexpected_cursor_does_not_move(store: CursorStore) -> None:
    """With expected=, a cursor with another value does not move: CursorConflict is raised, with the stored cursor."""
    async with store:
        await store.set("a", "7")
        for expected in ("6", "8", ""):
            await _expect_conflict(store, "9", stored="7", expected=expected)


@_contract.rule()
async def expected_cursor_moves(store: CursorStore) -> None:
    """With expected=, a cursor with that value moves; "" stands for a consumer without a cursor."""
    async with store:
        await store.set("a", "7", expected="")
        await store.set("a", "9", expected="7")
        expect("cursor", await store.get("a"), "9")


@_contract.rule("order")
async def expected_cursor_does_not_move_backwards(store: CursorStore) -> None:
    """With expected=, too, a cursor does not move backwards."""
    async with store:
        await store.set("a", "7")
        await _expect_conflict(store, "6", stored="7", expected="7")


@_contract.rule("order")
async def greatest_of_concurrent_cursors_is_stored(store: CursorStore) -> None:
    """The greatest of cursors that are set at the same time is stored; sets that are too late raise CursorConflict."""

    async def set_cursor(cursor: int) -> None:
        try:
            await store.set("a", str(cursor))
        except CursorConflict:
            pass  # A greater one was faster.

    async with store:
        async with anyio.create_task_group() as group:
            for number in range(30):
                # From 1 to 30, but not in order.
                group.start_soon(set_cursor, 7 * number % 30 + 1)
        expect("cursor", await store.get("a"), "30")
        await store.flush()
        expect("all cursors", dict(await store.all()), {"a": "30"})


@_contract.rule()
async def one_of_concurrent_sets_with_the_same_expectation_succeeds(store: CursorStore) -> None:
    """One of several sets at the same time that expect the same cursor succeeds."""
    winners: list[str] = []

    async def set_cursor(cursor: str) -> None:
        try:
            await store.set("a", cursor, expected="1")
        except CursorConflict:
            return
        winners.append(cursor)

    async with store:
        await store.set("a", "1")
        async with anyio.create_task_group() as group:
            for number in range(2, 12):
                group.start_soon(set_cursor, str(number))
        expect("number of sets that succeeded", len(winners), 1)
        expect("cursor", await store.get("a"), winners[0])


@_contract.rule()
async def cancelled_set_is_done_or_not(store: CursorStore) -> None:
    """After a set that is cancelled, at any wait, the cursor has the old or the new value, and can be set."""
    async with store:
        await store.set("a", "1")
        for step in range(1, _WAITS):
            before, after = str(step), str(step + 1)
            cancelled = await cancelled_at(step, store.set("a", after))
            cursor = await store.get("a")
            if cursor not in (before, after):
                raise AssertionError(f"cursor: expected {before!r} or {after!r}, got {cursor!r}")
            await store.set("a", after)
            expect("cursor, set once more", await store.get("a"), after)
            if not cancelled:
                return


@_contract.rule()
async def invalid_cursor_is_refused(store: CursorStore) -> None:
    """A cursor that is not a string raises TypeError, and the stored one does not change."""
    async with store:
        await store.set("a", "7")
        for wrong in (8, None, b"8"):
            try:
                await store.set("a", cast("str", wrong))
            except TypeError:
                expect("cursor", await store.get("a"), "7")
            else:
                raise AssertionError(f"set('a', {wrong!r}): expected TypeError, but the cursor was set")


@_contract.rule()
async def fence_is_not_ignored(store: CursorStore) -> None:
    """A cursor does not move under a lease that is not held: set(), or flush(), raises."""
    lease = Lease("a", "nobody", 1)
    raised = False
    try:
        async with store:
            await store.set("a", "7", fence=lease)
            await store.flush()
    except Exception:
        # LeaseLost, or TypeError if the store cannot compare this type of lease.
        raised = True
    expect(f"whether set(fence={lease!r}) raised", raised, True)
    expect("all cursors", dict(await store.all()), {})


@_contract.rule("rewind")
async def rewind_moves_it_anywhere(store: CursorStore) -> None:
    """rewind() moves a cursor backwards, or with "" removes it, and it can be set from there."""
    rewindable = cast("_Rewindable", store)
    async with store:
        await store.set("a", "7")
        for cursor in ("3", ""):
            await rewindable.rewind("a", cursor)
            expect("cursor", await store.get("a"), cursor)
        await store.set("a", "1", expected="")
        await store.flush()
        expect("all cursors", dict(await store.all()), {"a": "1"})


async def _expect_conflict(
    store: CursorStore, cursor: str, *, stored: str, expected: str | None = None
) -> None:
    """Check that the cursor of the consumer "a" cannot be set to ``cursor``."""
    call = f"set('a', {cursor!r}, expected={expected!r}) of a cursor at {stored!r}"
    try:
        await store.set("a", cursor, expected=expected)
        # A store may raise only when it writes.
        await store.flush()
    except CursorConflict as exc:
        actual = (exc.consumer, exc.stored, exc.given)
        expect(f"attributes of the CursorConflict of {call}", actual, ("a", stored, cursor))
    else:
        cursor = await store.get("a")
        raise AssertionError(f"{call}: expected CursorConflict, got none: the cursor is {cursor!r}")
    expect(f"cursor, after {call}", await store.get("a"), stored)
