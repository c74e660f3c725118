"""The rules for lease stores, and for cursor stores that compare leases."""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias, cast

import anyio

from reflex_aio.cursor import CursorStore
from reflex_aio.errors import CursorConflict, LeaseLost
from reflex_aio.lease import Lease, LeaseStore
from reflex_aio.testing.contract import Contract, cancelled_at, expect

__all__ = ["check_fenced_store", "check_lease_store"]

Stores: TypeAlias = tuple[CursorStore, LeaseStore]

_WAITS = 60
# The ttl of leases, in seconds: longer than any rule takes, and short enough to be waited for.
_LONG = 3600.0
_SHORT = 0.3

_leases: Contract[LeaseStore] = Contract("the lease store", ())
_fenced: Contract[Stores] = Contract("the cursor store", ())


@_leases.checked_by
async def check_lease_store(
    make_store: Callable[[], AbstractAsyncContextManager[LeaseStore]],
    *,
    rules: Iterable[str] | None = None,
    within: float = 60.0,
) -> None:
    """Check that a store keeps the rules of :class:`~reflex_aio.lease.LeaseStore`.

    Each rule is checked on a store of its own. Some rules wait until a lease has expired, for less than a second.

    :param make_store: returns an async context manager that makes a store without leases
    :param rules: the names of the rules to check; by default all
    :param within: time limit for a rule, in seconds
    :raises ContractBroken: if any rule is broken; the message has the expected and the actual result of each
    :raises ValueError: if there is no such rule
    """
    await _leases.check(make_store, rules=rules, within=within)


@_fenced.checked_by
async def check_fenced_store(
    make_stores: Callable[[], AbstractAsyncContextManager[Stores]],
    *,
    rules: Iterable[str] | None = None,
    within: float = 60.0,
) -> None:
    """Check that a cursor store moves a cursor only while the lease given as ``fence`` is held.

    :param make_stores: returns an async context manager that makes a cursor store and a lease store whose leases it
        compares, both empty
    :param rules: the names of the rules to check; by default all
    :param within: time limit for a rule, in seconds
    :raises ContractBroken: if any rule is broken; the message has the expected and the actual result of each
    :raises ValueError: if there is no such rule
    """
    await _fenced.check(make_stores, rules=rules, within=within)


# Lease stores.


@_leases.rule()
async def store_is_a_lease_store(leases: LeaseStore) -> None:
    """A store is a subclass of LeaseStore, and its leases have its lease_type."""
    if not isinstance(leases, LeaseStore):
        raise AssertionError(f"{leases!r} is not a LeaseStore")
    lease = await _acquire(leases, "a", "me")
    expect(f"whether {lease!r} is a {leases.lease_type.__name__}", isinstance(lease, leases.lease_type), True)


@_leases.rule()
async def lease_has_its_name_and_owner(leases: LeaseStore) -> None:
    """A lease has the name and the owner of the call; the first epoch is 1."""
    lease = await _acquire(leases, "a", "me")
    expect("name, owner and epoch", (lease.name, lease.owner, lease.epoch), ("a", "me", 1))


@_leases.rule()
async def held_lease_is_not_acquired_by_others(leases: LeaseStore) -> None:
    """While an owner holds a name, acquire() returns None for all others, and changes nothing."""
    lease = await _acquire(leases, "a", "me")
    expect("lease of another owner", await leases.acquire("a", "you", ttl=_LONG), None)
    await leases.renew(lease, ttl=_LONG)
    state = (await leases.all())["a"]
    expect("owner and epoch", (state.owner, state.epoch), ("me", 1))


@_leases.rule()
async def names_are_apart(leases: LeaseStore) -> None:
    """Each name has a lease of its own, whatever the name."""
    names = ("a", "A", "b 1", "\u00e9\u2028", "'; --", "%s", "a_1_of_2", "x" * 200)
    for number, name in enumerate(names):
        await _acquire(leases, name, str(number))
    held = {name: state.owner for name, state in (await leases.all()).items()}
    expect("owners", held, {name: str(number) for number, name in enumerate(names)})


@_leases.rule()
async def own_lease_keeps_its_epoch(leases: LeaseStore) -> None:
    """An owner that acquires a name again while it holds it gets the same epoch."""
    first = await _acquire(leases, "a", "me")
    second = await _acquire(leases, "a", "me")
    expect("epoch", second.epoch, first.epoch)
    await leases.renew(first, ttl=_LONG)


@_leases.rule()
async def acquiring_again_renews(leases: LeaseStore) -> None:
    """An owner that acquires a name again while it holds it gets the new ttl."""
    await _acquire(leases, "a", "me", ttl=_SHORT)
    await _acquire(leases, "a", "me")
    await _wait_for_expiry()
    expect("lease of another owner", await leases.acquire("a", "you", ttl=_LONG), None)


@_leases.rule()
async def expired_lease_can_be_acquired(leases: LeaseStore) -> None:
    """An expired lease can be acquired by another owner, with the next epoch. The old lease is lost then."""
    lost = await _acquire(leases, "a", "me", ttl=_SHORT)
    acquired = await _acquire_expired(leases, "a", "you")
    expect("epoch", acquired.epoch, lost.epoch + 1)
    await _expect_lost(leases, lost)
    expect("lease of the first owner", await leases.acquire("a", "me", ttl=_LONG), None)
    await leases.renew(acquired, ttl=_LONG)


@_leases.rule()
async def own_expired_lease_gets_another_epoch(leases: LeaseStore) -> None:
    """An owner that acquires a name after its lease has expired gets the next epoch."""
    first = await _acquire(leases, "a", "me", ttl=_SHORT)
    await _wait_for_expiry()
    second = await _acquire(leases, "a", "me")
    expect("epoch", second.epoch, first.epoch + 1)
    await _expect_lost(leases, first)


@_leases.rule()
async def renewed_lease_does_not_expire(leases: LeaseStore) -> None:
    """A renewed lease expires after the ttl of the renewal."""
    lease = await _acquire(leases, "a", "me", ttl=_SHORT)
    await leases.renew(lease, ttl=_LONG)
    await _wait_for_expiry()
    expect("lease of another owner", await leases.acquire("a", "you", ttl=_LONG), None)


@_leases.rule()
async def leases_are_renewed_together(leases: LeaseStore) -> None:
    """renew_many() renews those that are held, and returns a LeaseLost for each of the others."""
    held = [await _acquire(leases, name, "me", ttl=_SHORT) for name in "abc"]
    released, taken = await _acquire(leases, "d", "me"), await _acquire(leases, "e", "me")
    await leases.release(released)
    await leases.release(taken)
    await _acquire(leases, "e", "you")
    errors = await leases.renew_many([taken, *held, released], ttl=_LONG)
    expect("leases that are lost", set(errors), {released, taken})
    expect("types of the errors", {type(error) for error in errors.values()}, {LeaseLost})
    expect("leases that are lost of none", dict(await leases.renew_many([], ttl=_LONG)), {})
    await _wait_for_expiry()
    for name in "abc":
        expect("lease of another owner", await leases.acquire(name, "you", ttl=_LONG), None)


@_leases.rule()
async def expired_lease_can_be_renewed(leases: LeaseStore) -> None:
    """An expired lease can be renewed, with its epoch, if no owner has acquired the name in the meantime."""
    lease = await _acquire(leases, "a", "me", ttl=_SHORT)
    await _wait_for_expiry()
    await leases.renew(lease, ttl=_LONG)
    expect("lease of another owner", await leases.acquire("a", "you", ttl=_LONG), None)
    expect("epoch", (await _acquire(leases, "a", "me")).epoch, lease.epoch)


@_leases.rule()
async def released_lease_can_be_acquired_at_once(leases: LeaseStore) -> None:
    """A released lease can be acquired at once, and its epoch is not used again."""
    first = await _acquire(leases, "a", "me")
    await leases.release(first)
    await _expect_lost(leases, first)
    second = await _acquire(leases, "a", "you")
    expect("epoch", second.epoch, first.epoch + 1)
    await leases.release(second)
    third = await _acquire(leases, "a", "you")
    expect("epoch of the same owner", third.epoch, second.epoch + 1)


@_leases.rule()
async def release_of_a_lost_lease_does_nothing(leases: LeaseStore) -> None:
    """release() of a lost lease does nothing, neither an error nor a change of the present lease."""
    lost = await _acquire(leases, "a", "me", ttl=_SHORT)
    held = await _acquire_expired(leases, "a", "you")
    for _ in range(2):
        await leases.release(lost)
    await leases.renew(held, ttl=_LONG)
    expect("lease of a third owner", await leases.acquire("a", "she", ttl=_LONG), None)


@_leases.rule()
async def all_returns_every_state(leases: LeaseStore) -> None:
    """all() returns owner, epoch and time left of every name: no owner if released, no time left if expired."""
    expect("states before", dict(await leases.all()), {})
    await _acquire(leases, "held", "me", ttl=_LONG)
    await _acquire(leases, "expired", "me", ttl=_SHORT)
    await leases.release(await _acquire(leases, "released", "me"))
    await _wait_for_expiry()
    states = await leases.all()
    expect("names", set(states), {"held", "expired", "released"})
    owners = {name: (state.owner, state.epoch, state.is_held) for name, state in states.items()}
    expect("held", owners["held"], ("me", 1, True))
    expect("expired", owners["expired"], ("me", 1, False))
    expect("released", owners["released"], ("", 1, False))
    expect("whether the held lease has time left", 0 < states["held"].seconds_left <= _LONG, True)
    expect("whether the expired lease has none", states["expired"].seconds_left <= 0, True)


@_leases.rule()
async def one_of_concurrent_owners_acquires(leases: LeaseStore) -> None:
    """One of several owners that acquire a name at the same time succeeds: for a new, a released, an expired name."""
    won: list[Lease] = []

    async def acquire(name: str, owner: str) -> None:
        lease = await leases.acquire(name, owner, ttl=_LONG)
        if lease is not None:
            won.append(lease)

    await leases.release(await _acquire(leases, "released", "me"))
    await _acquire(leases, "expired", "me", ttl=_SHORT)
    await _wait_for_expiry()
    for name, epoch in (("new", 1), ("released", 2), ("expired", 2)):
        won.clear()
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(acquire, name, str(number))
        expect(f"epochs of the leases of the {name} name", [lease.epoch for lease in won], [epoch])
        expect("owner", (await leases.all())[name].owner, won[0].owner)


@_leases.rule()
async def cancelled_acquire_is_done_or_not(leases: LeaseStore) -> None:
    """After an acquire that is cancelled, at any wait, its owner can acquire the name."""
    for step in range(1, _WAITS):
        cancelled = await cancelled_at(step, leases.acquire(f"a{step}", "me", ttl=_LONG))
        lease = await _acquire(leases, f"a{step}", "me")
        expect("epoch", lease.epoch, 1)
        if not cancelled:
            return


@_leases.rule()
async def invalid_lease_is_refused(leases: LeaseStore) -> None:
    """Invalid names, owners and times raise TypeError or ValueError, and acquire nothing."""
    wrong = (("", "me", 1.0), ("a", "", 1.0), ("a", "me", 0.0), ("a", "me", -1.0), ("a", "me", float("nan")))
    for name, owner, ttl in (*wrong, (1, "me", 1.0), ("a", None, 1.0), ("a", "me", "1"), ("a", "me", None)):
        try:
            await leases.acquire(cast("str", name), cast("str", owner), ttl=cast("float", ttl))
        except (TypeError, ValueError):
            continue
        call = f"acquire({name!r}, {owner!r}, ttl={ttl!r})"
        raise AssertionError(f"{call}: expected TypeError or ValueError, got none")
    expect("states", dict(await leases.all()), {})


# Cursor stores that compare leases.


@_fenced.rule()
async def fence_type_is_the_type_of_the_leases(stores: Stores) -> None:
    """The cursor store's fence_type is the lease store's lease_type, or one of its bases."""
    cursors, leases = stores
    accepted = cursors.fence_type
    if accepted is None or not issubclass(leases.lease_type, accepted):
        raise AssertionError(f"fence_type: expected {leases.lease_type!r} or a base, got {accepted!r}")


@_fenced.rule()
async def owner_moves_the_cursor(stores: Stores) -> None:
    """The owner of the lease moves the cursor, whatever the lease's name, also after a renewal."""
    cursors, leases = stores
    lease = await _acquire(leases, "whatever", "me")
    await _set(cursors, "1", lease)
    await leases.renew(lease, ttl=_LONG)
    await _set(cursors, "2", lease, expected="1")
    expect("cursors", dict(await cursors.all()), {"a": "2"})


@_fenced.rule()
async def lost_lease_moves_nothing(stores: Stores) -> None:
    """Under a lost lease the cursor does not move, not even forward: LeaseLost is raised, with the lost lease."""
    cursors, leases = stores
    lost = await _acquire(leases, "a", "me", ttl=_SHORT)
    await _set(cursors, "1", lost)
    held = await _acquire_expired(leases, "a", "you")
    for expected in (None, "1"):
        await _expect_fenced(cursors, lost, expected=expected)
    await _set(cursors, "2", held)
    expect("cursors", dict(await cursors.all()), {"a": "2"})


@_fenced.rule()
async def released_lease_moves_nothing(stores: Stores) -> None:
    """Under a released lease the cursor does not move, whether it was acquired again or not."""
    cursors, leases = stores
    lease = await _acquire(leases, "a", "me")
    await _set(cursors, "1", lease)
    await leases.release(lease)
    await _expect_fenced(cursors, lease)
    await _acquire(leases, "a", "me")
    await _expect_fenced(cursors, lease)


@_fenced.rule()
async def first_cursor_is_fenced_too(stores: Stores) -> None:
    """Under a lost lease a consumer's first cursor is not stored either."""
    cursors, leases = stores
    lease = await _acquire(leases, "a", "me")
    await leases.release(lease)
    for expected in (None, ""):
        await _expect_fenced(cursors, lease, expected=expected, stored="")


@_fenced.rule()
async def expired_lease_still_moves_the_cursor(stores: Stores) -> None:
    """Under an expired lease the cursor moves until another owner acquires it: there is no one to protect."""
    cursors, leases = stores
    lease = await _acquire(leases, "a", "me", ttl=_SHORT)
    await _wait_for_expiry()
    await _set(cursors, "1", lease)
    expect("cursors", dict(await cursors.all()), {"a": "1"})


@_fenced.rule()
async def fenced_cursor_does_not_move_backwards(stores: Stores) -> None:
    """Under a held lease, too, a cursor moves forward only, and only if it is the expected one."""
    cursors, leases = stores
    lease = await _acquire(leases, "a", "me")
    await _set(cursors, "7", lease)
    for cursor, expected in (("6", None), ("8", "6"), ("8", "")):
        try:
            await _set(cursors, cursor, lease, expected=expected)
        except CursorConflict as exc:
            expect("stored cursor of the CursorConflict", exc.stored, "7")
        else:
            raise AssertionError(f"set('a', {cursor!r}, {expected=}): expected CursorConflict, got none")
    expect("cursors", dict(await cursors.all()), {"a": "7"})


@_fenced.rule()
async def lost_lease_does_not_affect_other_cursors(stores: Stores) -> None:
    """The cursors of other consumers are stored, under held leases as well as without a fence."""
    cursors, leases = stores
    lost, held = await _acquire(leases, "a", "me"), await _acquire(leases, "b", "me")
    await leases.release(lost)
    async with cursors:
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
    expect("whether LeaseLost was raised", lease_lost, True)
    expect("cursors", dict(await cursors.all()), {"b": "1", "c": "1"})


async def _acquire(leases: LeaseStore, name: str, owner: str, *, ttl: float = _LONG) -> Lease:
    lease = await leases.acquire(name, owner, ttl=ttl)
    if lease is None:
        raise AssertionError(f"acquire({name!r}, {owner!r}): expected a lease, got None")
    return lease


async def _acquire_expired(leases: LeaseStore, name: str, owner: str) -> Lease:
    """Acquire ``name`` as soon as its lease has expired."""
    while True:
        lease = await leases.acquire(name, owner, ttl=_LONG)
        if lease is not None:
            return lease
        await anyio.sleep(_SHORT / 10)


async def _wait_for_expiry() -> None:
    """Wait until leases with the short ttl have expired."""
    await anyio.sleep(_SHORT * 1.5)


async def _expect_lost(leases: LeaseStore, lease: Lease) -> None:
    try:
        await leases.renew(lease, ttl=_LONG)
    except LeaseLost as exc:
        actual = (exc.name, exc.owner, exc.epoch)
        expect("attributes of LeaseLost", actual, (lease.name, lease.owner, lease.epoch))
    else:
        raise AssertionError(f"renew({lease!r}): expected LeaseLost, got none")


async def _set(cursors: CursorStore, cursor: str, fence: Lease, *, expected: str | None = None) -> None:
    """Set the cursor of the consumer "a", and store it."""
    async with cursors:
        await cursors.set("a", cursor, expected=expected, fence=fence)
        # A store may raise only when it writes.
        await cursors.flush()


async def _expect_fenced(
    cursors: CursorStore, lease: Lease, *, expected: str | None = None, stored: str = "1"
) -> None:
    try:
        await _set(cursors, "9", lease, expected=expected)
    except LeaseLost as exc:
        actual = (exc.name, exc.owner, exc.epoch)
        expect("attributes of LeaseLost", actual, (lease.name, lease.owner, lease.epoch))
    else:
        raise AssertionError(f"set('a', '9', {expected=}, fence={lease!r}): expected LeaseLost, got none")
    expect("cursor", await cursors.get("a"), stored)
