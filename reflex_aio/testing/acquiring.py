"""Leases for the rules of those who lend and compare them."""

import anyio

from reflex_aio.lease import Lease, LeaseStore

__all__ = ["LONG", "SHORT", "acquired", "acquired_in_time", "expired"]

# For how long leases are acquired, in seconds: longer than any rule takes, and so short that it can be waited for.
LONG = 3600.0
SHORT = 0.3


async def acquired(leases: LeaseStore, name: str, owner: str, *, ttl: float = LONG) -> Lease:
    lease = await leases.acquire(name, owner, ttl=ttl)
    if lease is None:
        raise AssertionError(f"expected a lease for acquire({name!r}, {owner!r}), came None")
    return lease


async def acquired_in_time(leases: LeaseStore, name: str, owner: str) -> Lease:
    """Acquire ``name`` as soon as it has expired."""
    while True:
        lease = await leases.acquire(name, owner, ttl=LONG)
        if lease is not None:
            return lease
        await anyio.sleep(SHORT / 10)


async def expired() -> None:
    """Return when what was acquired for a short time has expired."""
    await anyio.sleep(SHORT * 1.5)
