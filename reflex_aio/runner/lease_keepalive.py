"""Keeping a lease."""

import logging
import random
from collections.abc import Awaitable
from typing import TypeVar

import anyio

from reflex_aio.errors import LeaseLost
from reflex_aio.lease import Lease, LeaseStore
from reflex_aio.tasks import shielded

__all__ = ["NotRenewed", "acquire", "answered", "keep", "release"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Shares of the ttl: when to renew, when to try again what failed, and when to take a lease for lost.
_RENEW = 1 / 3
_RETRY = 1 / 10
_SAFE = 9 / 10
# How long giving back a lease may take, in seconds. It expires by itself too.
_RELEASE_TIMEOUT = 5.0


class NotRenewed(LeaseLost):
    """Raised when a lease could not be renewed in time: somebody else may acquire it any moment."""

    def __init__(self, lease: Lease, *, ttl: float) -> None:
        super().__init__(name=lease.name, owner=lease.owner, epoch=lease.epoch)
        self.args = (f"{lease.name}: the lease could not be renewed within its ttl of {ttl:g} s",)


async def answered(request: Awaitable[T], *, within: float) -> T:
    """Return what a lease store answers.

    :raises TimeoutError: if it doesn't ``within`` so many seconds
    """
    with anyio.move_on_after(within):
        return await request
    raise TimeoutError(f"the store of the leases did not answer within {within:g} s")


async def acquire(leases: LeaseStore, name: str, owner: str, *, ttl: float, within: float) -> Lease | None:
    """Acquire ``name``, or return ``None`` if somebody else holds it. See :class:`~reflex_aio.lease.LeaseStore`.

    A caller that is cancelled meanwhile leaves no lease behind, which would be nobody's until it expires.

    :raises TimeoutError: if the store doesn't answer ``within`` so many seconds
    """
    acquired: Lease | None = None

    async def request() -> None:
        nonlocal acquired
        acquired = await answered(leases.acquire(name, owner, ttl=ttl), within=within)

    try:
        await shielded(request())
    except BaseException:
        if acquired is not None:
            await release(leases, acquired)
        raise
    return acquired


async def keep(leases: LeaseStore, lease: Lease, ttl: float, sent: float) -> None:
    """Renew ``lease`` until it is lost, which raises.

    How long it is safe is told by this process's monotonic clock, from before a request was sent: the store can't
    have begun to count earlier.

    :param ttl: for how long it was acquired, and is renewed, in seconds
    :param sent: :func:`anyio.current_time` before it was acquired
    :raises LeaseLost: once it is; also, in time before it expires, when it could not be renewed
    """
    safe_until, delay = sent + ttl * _SAFE, ttl * _RENEW
    while True:
        await anyio.sleep(delay * random.uniform(0.8, 1.0))
        sent = anyio.current_time()
        if sent >= safe_until:
            # Also where the process was paused.
            raise NotRenewed(lease, ttl=ttl)
        with anyio.CancelScope(deadline=safe_until) as limit:
            try:
                await leases.renew(lease, ttl=ttl)
                safe_until, delay = sent + ttl * _SAFE, ttl * _RENEW
            except LeaseLost:
                raise
            except Exception as exc:
                delay = min(ttl * _RETRY, safe_until - sent)
                logger.warning("lease of %s: not renewed, trying again in %.1f s: %s", lease.name, delay, exc)
        if limit.cancelled_caught:
            raise NotRenewed(lease, ttl=ttl)


async def release(leases: LeaseStore, lease: Lease) -> None:
    """Give ``lease`` back, also if cancelled. If that fails it is left to expire."""
    await shielded(_release(leases, lease))


async def _release(leases: LeaseStore, lease: Lease) -> None:
    try:
        await answered(leases.release(lease), within=_RELEASE_TIMEOUT)
    except Exception as exc:
        logger.warning("lease of %s: not released, left to expire: %s", lease.name, exc)
