"""The rules for cursor stores whose cursors are fenced by leases."""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from reflex_aio.cursor import CursorStore
from reflex_aio.errors import CursorConflict, LeaseLost
from reflex_aio.lease import Lease, LeaseStore
from reflex_aio.testing.acquiring import LONG, SHORT, acquired, acquired_in_time, expired
from reflex_aio.testing.contract import Contract, expect
from reflex_aio.testing.cursor_stores import entered

__all__ = ["MakeFencedStore", "check_fenced_store", "fenced_store_rules"]

MakeFencedStore: TypeAlias = Callable[[], AbstractAsyncContextManager[tuple[CursorStore, LeaseStore]]]

_fenced: Contract[tuple[CursorStore, LeaseStore]] = Contract("the cursor store", ())


def fenced_store_rules() -> dict[str, str]:
    """Return what each rule for fenced cursor stores promises, by the rule's name."""
    return _fenced.promises(())


async def check_fenced_store(
    make_stores: MakeFencedStore, *, rules: Iterable[str] | None = None, within: float = 60.0
) -> None:
    """Check that a cursor store moves a cursor only while the lease is held that is given as ``fence``.

    :param make_stores: returns an async context manager that makes a cursor store, and a lease store whose leases it
        compares, both empty
    :param rules: the names of the rules to check; by default all
    :param within: how long a rule may take, in seconds
    :raises ContractBroken: if any rule is broken: with each, what was expected, and what came
    :raises ValueError: if there is no such rule
    """
    await _fenced.check(make_stores, lacks=(), rules=rules, within=within)


@_fenced.rule()
async def holder_moves_the_cursor(stores: tuple[CursorStore, LeaseStore]) -> None:
    """Who holds the lease moves the cursor, whatever the lease's name, also after a renewal."""
    cursors, leases = stores
    lease = await acquired(leases, "whatever", "me")
    await _set(cursors, "1", lease)
    await leases.renew(lease, ttl=LONG)
    await _set(cursors, "2", lease, expected="1")
    expect("cursors", dict(await cursors.all()), {"a": "2"})


@_fenced.rule()
async def lease_that_is_lost_moves_nothing(stores: tuple[CursorStore, LeaseStore]) -> None:
    """Who has lost the lease moves the cursor nowhere, not even forward: LeaseLost tells which lease it is."""
    cursors, leases = stores
    lost = await acquired(leases, "a", "me", ttl=SHORT)
    await _set(cursors, "1", lost)
    held = await acquired_in_time(leases, "a", "you")
    for expected in (None, "1"):
        await _expect_fenced(cursors, lost, expected=expected)
    await _set(cursors, "2", held)
    expect("cursors", dict(await cursors.all()), {"a": "2"})


@_fenced.rule()
async def lease_that_is_released_moves_nothing(stores: tuple[CursorStore, LeaseStore]) -> None:
    """Who has released the lease moves the cursor no more, also when nobody has acquired it since."""
    cursors, leases = stores
    lease = await acquired(leases, "a", "me")
    await _set(cursors, "1", lease)
    await leases.release(lease)
    await _expect_fenced(cursors, lease)
    await acquired(leases, "a", "me")
    await _expect_fenced(cursors, lease)


@_fenced.rule()
async def consumer_without_a_cursor_is_fenced_too(stores: tuple[CursorStore, LeaseStore]) -> None:
    """Who has lost the lease doesn't make the first cursor either."""
    cursors, leases = stores
    lease = await acquired(leases, "a", "me")
    await leases.release(lease)
    for expected in (None, ""):
        await _expect_fenced(cursors, lease, expected=expected, stored="")


@_fenced.rule()
async def expired_lease_that_nobody_took_still_moves_the_cursor(
    stores: tuple[CursorStore, LeaseStore],
) -> None:
    """A lease that has expired fences nobody until it is acquired: there is nobody else to protect."""
    cursors, leases = stores
    lease = await acquired(leases, "a", "me", ttl=SHORT)
    await expired()
    await _set(cursors, "1", lease)
    expect("cursors", dict(await cursors.all()), {"a": "1"})


@_fenced.rule()
async def fenced_cursor_does_not_move_backwards(stores: tuple[CursorStore, LeaseStore]) -> None:
    """The holder of the lease, too, moves the cursor forward only, and from where it is expected only."""
    cursors, leases = stores
    lease = await acquired(leases, "a", "me")
    await _set(cursors, "7", lease)
    for cursor, expected in (("6", None), ("8", "6"), ("8", "")):
        try:
            await _set(cursors, cursor, lease, expected=expected)
        except CursorConflict as exc:
            expect("where CursorConflict says it is", exc.stored, "7")
        else:
            raise AssertionError(f"expected CursorConflict for {cursor!r}, expected={expected!r}, came none")
    expect("cursors", dict(await cursors.all()), {"a": "7"})


@_fenced.rule()
async def lost_lease_holds_back_no_other(stores: tuple[CursorStore, LeaseStore]) -> None:
    """Of several consumers' cursors those are stored whose leases are held, and those without a fence."""
    cursors, leases = stores
    lost, held = await acquired(leases, "a", "me"), await acquired(leases, "b", "me")
    await leases.release(lost)
    async with entered(cursors):
        lease_lost = False
        for name, fence in (("a", lost), ("b", held), ("c", None)):
            try:
                await cursors.set(name, "1", fence=fence)
            except LeaseLost:
                lease_lost = True
        try:
            await cursors.flush()
        except LeaseLost:
            lease_lost = True
    expect("whether LeaseLost came", lease_lost, True)
    expect("cursors", dict(await cursors.all()), {"b": "1", "c": "1"})


async def _set(cursors: CursorStore, cursor: str, fence: Lease, *, expected: str | None = None) -> None:
    """Set the cursor of the consumer "a", and store it."""
    async with entered(cursors):
        await cursors.set("a", cursor, expected=expected, fence=fence)
        # A store may tell only when it stores.
        await cursors.flush()


async def _expect_fenced(
    cursors: CursorStore, lease: Lease, *, expected: str | None = None, stored: str = "1"
) -> None:
    try:
        await _set(cursors, "9", lease, expected=expected)
    except LeaseLost as exc:
        came = (exc.name, exc.owner, exc.epoch)
        expect("what LeaseLost tells", came, (lease.name, lease.owner, lease.epoch))
    else:
        raise AssertionError(f"expected LeaseLost for set('a', '9', expected={expected!r}, fence={lease!r})")
    expect("cursor", await cursors.get("a"), stored)
