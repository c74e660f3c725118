"""The rules that every cursor store keeps."""

from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal, Protocol, TypeAlias, cast, get_args

import anyio

from reflex_aio.cursor import CursorStore
from reflex_aio.errors import CursorConflict
from reflex_aio.lease import Lease
from reflex_aio.testing.cancelling import cancelled_at
from reflex_aio.testing.contract import Contract, expect

__all__ = [
    "CursorStoreFeature",
    "MakeCursorStore",
    "check_cursor_store",
    "cursor_store_rules",
    "entered",
]

CursorStoreFeature: TypeAlias = Literal["order", "rewind"]
"""What not every store has: knowing which of two numbers comes first, so that cursors don't move backwards; a method
``rewind(name, cursor)``, which lets them."""

MakeCursorStore: TypeAlias = Callable[[], AbstractAsyncContextManager[CursorStore]]

_AWAITS = 60


class _Rewindable(Protocol):
    async def rewind(self, name: str, cursor: str) -> None: ...


_contract: Contract[CursorStore] = Contract("the cursor store", get_args(CursorStoreFeature))


def cursor_store_rules(*, lacks: Collection[CursorStoreFeature] = ()) -> dict[str, str]:
    """Return what each rule for cursor stores promises, by the rule's name.

    :param lacks: what the store doesn't have; rules that need it are left out
    :raises ValueError: if there is no such feature
    """
    return _contract.promises(lacks)


async def check_cursor_store(
    make_store: MakeCursorStore,
    *,
    lacks: Collection[CursorStoreFeature] = (),
    rules: Iterable[str] | None = None,
    within: float = 60.0,
) -> None:
    """Check that a store keeps the rules of :class:`~reflex_aio.cursor.CursorStore`.

    Each rule is checked on a store of its own, which is entered, if it is an asynchronous context manager, as by
    :func:`~reflex_aio.running.run.run`. Cursors are the ids 1 to 100, as strings.

    :param make_store: returns an async context manager that makes a store without cursors
    :param lacks: what the store doesn't have; rules that need it are left out
    :param rules: the names of the rules to check; by default all
    :param within: how long a rule may take, in seconds
    :raises ContractBroken: if any rule is broken: with each, what was expected, and what came
    :raises ValueError: if there is no such rule or feature
    """
    await _contract.check(make_store, lacks=lacks, rules=rules, within=within)


@_contract.rule()
async def store_is_a_cursor_store(store: CursorStore) -> None:
    """A store has the methods of the protocol CursorStore."""
    if not isinstance(store, CursorStore):
        raise AssertionError(f"{store!r} lacks one of get, set, flush and all")


@_contract.rule()
async def new_consumer_has_no_cursor(store: CursorStore) -> None:
    """The cursor of a consumer that has none is ""."""
    async with entered(store):
        expect("cursor", await store.get("a"), "")
        expect("all cursors", dict(await store.all()), {})


@_contract.rule()
async def cursor_is_where_it_was_set(store: CursorStore) -> None:
    """get() returns what was set last, at once, whether or not it was flushed."""
    async with entered(store):
        for cursor in ("1", "2", "7"):
            await store.set("a", cursor)
            expect("cursor", await store.get("a"), cursor)


@_contract.rule()
async def consumers_are_apart(store: CursorStore) -> None:
    """Each consumer has a cursor of its own, whatever its name."""
    names = ("a", "A", "b 1", "\u00e9\u2028", "'; --", "%s", "a_1_of_2", "x" * 200)
    async with entered(store):
        for number, name in enumerate(names, 1):
            await store.set(name, str(number))
        for number, name in enumerate(names, 1):
            expect(f"cursor of {name!r}", await store.get(name), str(number))
        expect("cursor of another", await store.get("c"), "")


@_contract.rule()
async def flushed_cursors_are_stored(store: CursorStore) -> None:
    """After flush() every cursor that was set is stored, and so among all()."""
    async with entered(store):
        await store.set("a", "7")
        await store.set("b", "3")
        await store.flush()
        expect("all cursors", dict(await store.all()), {"a": "7", "b": "3"})
        await store.flush()


@_contract.rule()
async def leaving_stores_the_cursors(store: CursorStore) -> None:
    """A store that several have entered works until the last has left it, and each leaving stores the cursors."""
    async with entered(store):
        async with entered(store):
            await store.set("a", "7")
        expect("all cursors, after the first has left", dict(await store.all()), {"a": "7"})
        await store.set("a", "8")
        expect("cursor, after the first has left", await store.get("a"), "8")
        if not _can_beentered(store):
            await store.flush()
    expect("all cursors, after the last has left", dict(await store.all()), {"a": "8"})


@_contract.rule()
async def what_all_returns_stays_as_it_was(store: CursorStore) -> None:
    """What all() returns doesn't change when cursors are set later."""
    async with entered(store):
        await store.set("a", "7")
        await store.flush()
        told = await store.all()
        await store.set("a", "8")
        await store.set("b", "1")
        await store.flush()
        expect("what all() had returned", dict(told), {"a": "7"})


@_contract.rule()
async def setting_it_where_it_is_is_no_error(store: CursorStore) -> None:
    """A cursor may be set to where it is."""
    async with entered(store):
        for _ in range(2):
            await store.set("a", "7")
        await store.set("a", "7", expected="7")
        expect("cursor", await store.get("a"), "7")


@_contract.rule("order")
async def cursor_does_not_move_backwards(store: CursorStore) -> None:
    """A cursor that would move backwards stays, and CursorConflict tells where it is."""
    async with entered(store):
        await store.set("a", "7")
        await _refused(store, "6", stored="7")


@_contract.rule("order")
async def numbers_are_compared_by_their_values(store: CursorStore) -> None:
    """The cursor 10 comes after 9."""
    async with entered(store):
        await store.set("a", "9")
        await store.set("a", "10")
        await _refused(store, "9", stored="10")


@_contract.rule()
async def cursor_that_is_not_where_it_is_expected_stays(store: CursorStore) -> None:
    """With expected= a cursor that is elsewhere stays, and CursorConflict tells where it is."""
    async with entered(store):
        await store.set("a", "7")
        for expected in ("6", "8", ""):
            await _refused(store, "9", stored="7", expected=expected)


@_contract.rule()
async def cursor_that_is_where_it_is_expected_moves(store: CursorStore) -> None:
    """With expected= a cursor that is there moves; "" is that of a consumer that has none."""
    async with entered(store):
        await store.set("a", "7", expected="")
        await store.set("a", "9", expected="7")
        expect("cursor", await store.get("a"), "9")


@_contract.rule("order")
async def expected_is_no_way_backwards(store: CursorStore) -> None:
    """With expected=, too, a cursor doesn't move backwards."""
    async with entered(store):
        await store.set("a", "7")
        await _refused(store, "6", stored="7", expected="7")


@_contract.rule("order")
async def of_many_at_once_the_greatest_stays(store: CursorStore) -> None:
    """Of cursors that are set at the same time the greatest stays; those that come too late raise CursorConflict."""

    async def set_cursor(cursor: int) -> None:
        try:
            await store.set("a", str(cursor))
        except CursorConflict:
            pass  # A greater one was faster.

    async with entered(store):
        async with anyio.create_task_group() as group:
            for number in range(30):
                # From 1 to 30, but not in order.
                group.start_soon(set_cursor, 7 * number % 30 + 1)
        expect("cursor", await store.get("a"), "30")
        await store.flush()
        expect("all cursors", dict(await store.all()), {"a": "30"})


@_contract.rule()
async def of_many_that_expect_the_same_one_wins(store: CursorStore) -> None:
    """Of those that set a cursor at the same time, and expect the same of it, one succeeds."""
    winners: list[str] = []

    async def set_cursor(cursor: str) -> None:
        try:
            await store.set("a", cursor, expected="1")
        except CursorConflict:
            return
        winners.append(cursor)

    async with entered(store):
        await store.set("a", "1")
        async with anyio.create_task_group() as group:
            for number in range(2, 12):
                group.start_soon(set_cursor, str(number))
        expect("how many succeeded", len(winners), 1)
        expect("cursor", await store.get("a"), winners[0])


@_contract.rule()
async def cancelled_set_is_done_or_not(store: CursorStore) -> None:
    """After a set that is cancelled, wherever it waits, the cursor is before or after the move, and can be set."""
    async with entered(store):
        await store.set("a", "1")
        for step in range(1, _AWAITS):
            before, after = str(step), str(step + 1)
            cancelled = await cancelled_at(step, store.set("a", after))
            cursor = await store.get("a")
            if cursor not in (before, after):
                raise AssertionError(f"expected the cursor at {before} or {after}, came {cursor!r}")
            await store.set("a", after)
            expect("cursor, set once more", await store.get("a"), after)
            if not cancelled:
                return


@_contract.rule()
async def what_is_no_cursor_is_refused(store: CursorStore) -> None:
    """A cursor that is no string raises TypeError, and the stored one stays."""
    async with entered(store):
        await store.set("a", "7")
        for wrong in (8, None, b"8"):
            try:
                await store.set("a", cast("str", wrong))
            except TypeError:
                expect("cursor", await store.get("a"), "7")
            else:
                raise AssertionError(f"expected TypeError for the cursor {wrong!r}, but it was set")


@_contract.rule()
async def fence_is_not_ignored(store: CursorStore) -> None:
    """A cursor doesn't move under a lease that nobody holds: set(), or flush(), raises."""
    nobodys = Lease("a", "nobody", 1)
    raised = False
    try:
        async with entered(store):
            await store.set("a", "7", fence=nobodys)
            await store.flush()
    except Exception:
        # LeaseLost, or TypeError where the store knows what kind of leases it can compare.
        raised = True
    expect(f"whether set(fence={nobodys!r}) raised", raised, True)
    expect("all cursors", dict(await store.all()), {})


@_contract.rule("rewind")
async def rewind_moves_it_anywhere(store: CursorStore) -> None:
    """rewind() moves a cursor backwards, "" to before the beginning, and it goes on from there."""
    rewindable = cast("_Rewindable", store)
    async with entered(store):
        await store.set("a", "7")
        for cursor in ("3", ""):
            await rewindable.rewind("a", cursor)
            expect("cursor", await store.get("a"), cursor)
        await store.set("a", "1", expected="")
        await store.flush()
        expect("all cursors", dict(await store.all()), {"a": "1"})


async def _refused(store: CursorStore, cursor: str, *, stored: str, expected: str | None = None) -> None:
    """Check that consumer "a" can't be set to ``cursor``."""
    told = f"set('a', {cursor!r}, expected={expected!r}) of a cursor at {stored!r}"
    try:
        await store.set("a", cursor, expected=expected)
        # A store may tell only when it stores.
        await store.flush()
    except CursorConflict as exc:
        came = (exc.consumer, exc.stored, exc.given)
        expect(f"what CursorConflict tells of {told}", came, ("a", stored, cursor))
    else:
        raise AssertionError(
            f"expected CursorConflict for {told}, came none: it is at {await store.get('a')!r}"
        )
    expect(f"cursor, after {told}", await store.get("a"), stored)


def _can_beentered(store: CursorStore) -> bool:
    return isinstance(store, AbstractAsyncContextManager)


@asynccontextmanager
async def entered(store: CursorStore) -> AsyncIterator[None]:
    """Be in the store, if it can be entered."""
    if isinstance(store, AbstractAsyncContextManager):
        async with store:
            yield
    else:
        yield
