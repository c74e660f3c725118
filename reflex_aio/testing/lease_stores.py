"""The rules that every lease store keeps."""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias, cast

import anyio

from reflex_aio.errors import LeaseLost
from reflex_aio.lease import Lease, LeaseStore
from reflex_aio.testing.acquiring import LONG, SHORT, acquired, acquired_in_time, expired
from reflex_aio.testing.cancelling import cancelled_at
from reflex_aio.testing.contract import Contract, expect

__all__ = ["MakeLeaseStore", "check_lease_store", "lease_store_rules"]

MakeLeaseStore: TypeAlias = Callable[[], AbstractAsyncContextManager[LeaseStore]]

_AWAITS = 60

_leases: Contract[LeaseStore] = Contract("the lease store", ())


def lease_store_rules() -> dict[str, str]:
    """Return what each rule for lease stores promises, by the rule's name."""
    return _leases.promises(())


async def check_lease_store(
    make_store: MakeLeaseStore, *, rules: Iterable[str] | None = None, within: float = 60.0
) -> None:
    """Check that a store keeps the rules of :class:`~reflex_aio.lease.LeaseStore`.

    Each rule is checked on a store of its own. Some wait until a lease has expired, which takes part of a second.

    :param make_store: returns an async context manager that makes a store without leases
    :param rules: the names of the rules to check; by default all
    :param within: how long a rule may take, in seconds
    :raises ContractBroken: if any rule is broken: with each, what was expected, and what came
    :raises ValueError: if there is no such rule
    """
    await _leases.check(make_store, lacks=(), rules=rules, within=within)


@_leases.rule()
async def store_is_a_lease_store(leases: LeaseStore) -> None:
    """A store has the methods of the protocol LeaseStore."""
    if not isinstance(leases, LeaseStore):
        raise AssertionError(f"{leases!r} lacks one of acquire, renew, release and all")


@_leases.rule()
async def lease_tells_what_was_acquired(leases: LeaseStore) -> None:
    """A lease has the name and the owner that it was acquired with; the first epoch is 1."""
    lease = await acquired(leases, "a", "me")
    expect("name, owner and epoch", (lease.name, lease.owner, lease.epoch), ("a", "me", 1))


@_leases.rule()
async def held_lease_is_acquired_by_nobody_else(leases: LeaseStore) -> None:
    """While somebody holds a name, acquire() returns None to all others, and changes nothing."""
    lease = await acquired(leases, "a", "me")
    expect("what another acquires", await leases.acquire("a", "you", ttl=LONG), None)
    await leases.renew(lease, ttl=LONG)
    state = (await leases.all())["a"]
    expect("owner and epoch", (state.owner, state.epoch), ("me", 1))


@_leases.rule()
async def names_are_apart(leases: LeaseStore) -> None:
    """Each name has a lease of its own, whatever the name."""
    names = ("a", "A", "b 1", "\u00e9\u2028", "'; --", "%s", "a_1_of_2", "x" * 200)
    for number, name in enumerate(names):
        await acquired(leases, name, str(number))
    held = {name: state.owner for name, state in (await leases.all()).items()}
    expect("owners", held, {name: str(number) for number, name in enumerate(names)})


@_leases.rule()
async def own_lease_is_acquired_again_as_it_is(leases: LeaseStore) -> None:
    """An owner that acquires a name that it holds gets the epoch that it has."""
    first = await acquired(leases, "a", "me")
    second = await acquired(leases, "a", "me")
    expect("epoch", second.epoch, first.epoch)
    await leases.renew(first, ttl=LONG)


@_leases.rule()
async def acquiring_again_is_renewing(leases: LeaseStore) -> None:
    """An owner that acquires a name that it holds has it for the new time."""
    await acquired(leases, "a", "me", ttl=SHORT)
    await acquired(leases, "a", "me")
    await expired()
    expect("what another acquires", await leases.acquire("a", "you", ttl=LONG), None)


@_leases.rule()
async def expired_lease_goes_to_who_comes_first(leases: LeaseStore) -> None:
    """A lease that has expired can be acquired by others, with the next epoch, and is lost to who had it."""
    lost = await acquired(leases, "a", "me", ttl=SHORT)
    taken = await acquired_in_time(leases, "a", "you")
    expect("epoch", taken.epoch, lost.epoch + 1)
    await _expect_lost(leases, lost)
    expect("what the first one acquires", await leases.acquire("a", "me", ttl=LONG), None)
    await leases.renew(taken, ttl=LONG)


@_leases.rule()
async def own_expired_lease_gets_another_epoch(leases: LeaseStore) -> None:
    """An owner that acquires a name after its lease has expired gets the next epoch."""
    first = await acquired(leases, "a", "me", ttl=SHORT)
    await expired()
    second = await acquired(leases, "a", "me")
    expect("epoch", second.epoch, first.epoch + 1)
    await _expect_lost(leases, first)


@_leases.rule()
async def renewed_lease_does_not_expire(leases: LeaseStore) -> None:
    """A lease that is renewed expires as long after that as it is renewed for."""
    lease = await acquired(leases, "a", "me", ttl=SHORT)
    await leases.renew(lease, ttl=LONG)
    await expired()
    expect("what another acquires", await leases.acquire("a", "you", ttl=LONG), None)


@_leases.rule()
async def expired_lease_can_be_renewed_until_it_is_taken(leases: LeaseStore) -> None:
    """Who comes late with a renewal has the lease still, with its epoch, if nobody has acquired the name meanwhile."""
    lease = await acquired(leases, "a", "me", ttl=SHORT)
    await expired()
    await leases.renew(lease, ttl=LONG)
    expect("what another acquires", await leases.acquire("a", "you", ttl=LONG), None)
    expect("epoch", (await acquired(leases, "a", "me")).epoch, lease.epoch)


@_leases.rule()
async def released_lease_is_free_at_once(leases: LeaseStore) -> None:
    """A lease that is released can be acquired at once, and its epoch isn't used again."""
    first = await acquired(leases, "a", "me")
    await leases.release(first)
    await _expect_lost(leases, first)
    second = await acquired(leases, "a", "you")
    expect("epoch", second.epoch, first.epoch + 1)
    await leases.release(second)
    third = await acquired(leases, "a", "you")
    expect("epoch of the owner that had it before", third.epoch, second.epoch + 1)


@_leases.rule()
async def lost_lease_is_released_in_silence(leases: LeaseStore) -> None:
    """release() of a lease that is lost does nothing, and nothing to who holds the name now."""
    lost = await acquired(leases, "a", "me", ttl=SHORT)
    held = await acquired_in_time(leases, "a", "you")
    for _ in range(2):
        await leases.release(lost)
    await leases.renew(held, ttl=LONG)
    expect("what a third acquires", await leases.acquire("a", "she", ttl=LONG), None)


@_leases.rule()
async def all_tells_what_is_held_and_what_was(leases: LeaseStore) -> None:
    """all() tells owner, epoch and time left of every name: of a released one no owner, of an expired one no time."""
    expect("states before", dict(await leases.all()), {})
    await acquired(leases, "held", "me", ttl=LONG)
    await acquired(leases, "expired", "me", ttl=SHORT)
    await leases.release(await acquired(leases, "released", "me"))
    await expired()
    states = await leases.all()
    expect("names", set(states), {"held", "expired", "released"})
    owners = {name: (state.owner, state.epoch, state.is_held) for name, state in states.items()}
    expect("held", owners["held"], ("me", 1, True))
    expect("expired", owners["expired"], ("me", 1, False))
    expect("released", owners["released"], ("", 1, False))
    expect("that the held one has its time", 0 < states["held"].seconds_left <= LONG, True)
    expect("that the expired one has none left", states["expired"].seconds_left <= 0, True)


@_leases.rule()
async def of_many_at_once_one_acquires(leases: LeaseStore) -> None:
    """Of several owners that acquire a name at the same time one gets it: a new, a released and an expired one."""
    won: list[Lease] = []

    async def acquire(name: str, owner: str) -> None:
        lease = await leases.acquire(name, owner, ttl=LONG)
        if lease is not None:
            won.append(lease)

    await leases.release(await acquired(leases, "released", "me"))
    await acquired(leases, "expired", "me", ttl=SHORT)
    await expired()
    for name, epoch in (("new", 1), ("released", 2), ("expired", 2)):
        won.clear()
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(acquire, name, str(number))
        expect(f"epochs of those that acquired the {name} one", [lease.epoch for lease in won], [epoch])
        expect("owner", (await leases.all())[name].owner, won[0].owner)


@_leases.rule()
async def cancelled_acquire_is_done_or_not(leases: LeaseStore) -> None:
    """After an acquire that is cancelled, wherever it waits, its owner can acquire the name."""
    for step in range(1, _AWAITS):
        cancelled = await cancelled_at(step, leases.acquire(f"a{step}", "me", ttl=LONG))
        lease = await acquired(leases, f"a{step}", "me")
        expect("epoch", lease.epoch, 1)
        if not cancelled:
            return


@_leases.rule()
async def what_is_no_lease_is_refused(leases: LeaseStore) -> None:
    """Names, owners and times that can't be meant raise TypeError or ValueError, and acquire nothing."""
    wrong = (("", "me", 1.0), ("a", "", 1.0), ("a", "me", 0.0), ("a", "me", -1.0), ("a", "me", float("nan")))
    for name, owner, ttl in (*wrong, (1, "me", 1.0), ("a", None, 1.0), ("a", "me", "1"), ("a", "me", None)):
        try:
            await leases.acquire(cast("str", name), cast("str", owner), ttl=cast("float", ttl))
        except (TypeError, ValueError):
            continue
        raise AssertionError(
            f"expected TypeError or ValueError for acquire({name!r}, {owner!r}, ttl={ttl!r})"
        )
    expect("states", dict(await leases.all()), {})


async def _expect_lost(leases: LeaseStore, lease: Lease) -> None:
    try:
        await leases.renew(lease, ttl=LONG)
    except LeaseLost as exc:
        came = (exc.name, exc.owner, exc.epoch)
        expect("what LeaseLost tells", came, (lease.name, lease.owner, lease.epoch))
    else:
        raise AssertionError(f"expected LeaseLost for the renewal of {lease!r}, came none")
