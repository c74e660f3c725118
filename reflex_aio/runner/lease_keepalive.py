"""Acquires, renews and releases leases, each request within a time limit."""

import logging
import random
from collections.abc import Awaitable
from typing import TypeVar

import anyio

from reflex_aio.errors import LeaseLost
from reflex_aio.lease import Lease, LeaseStore
from reflex_aio.tasks import shielded

__all__ = ["NotRenewed", "acquire", "keep_alive", "release", "within_limit"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Fractions of the ttl: when to renew, when to retry after a failure, and when to give up the lease.
_RENEW = 1 / 3
_RETRY = 1 / 10
_SAFE = 9 / 10
# How long releasing a lease may take, in seconds. Otherwise it expires.
_RELEASE_TIMEOUT = 5.0


class NotRenewed(LeaseLost):
    """Raised when a lease could not be renewed in time. Another process may acquire it at any moment."""

    def __init__(self, lease: Lease, *, ttl: float) -> None:
        super().__init__(name=lease.name, owner=lease.owner, epoch=lease.epoch)
        self.args = (f"{lease.name}: the lease could not be renewed within its ttl of {ttl:g} s",)


async def within_limit(request: Awaitable[T], *, timeout: float) -> T:
    """Return the result of a request to a lease store.

    :param timeout: time limit, in seconds
    :raises TimeoutError: if it takes longer
    """
    with anyio.move_on_after(timeout):
        return await request
    raise TimeoutError(f"the lease store did not answer within {timeout:g} s")


async def acquire(leases: LeaseStore, name: str, owner: str, *, ttl: float, timeout: float) -> Lease | None:
    """Acquire ``name``, or return ``None`` if another owner holds it. See :class:`~reflex_aio.lease.LeaseStore`.

    If the caller is cancelled, the lease is released: otherwise no process could use it until it expires.

    :param timeout: time limit, in seconds
    :raises TimeoutError: if the store takes longer
    """
    acquired: Lease | None = None

    async def request() -> None:
        nonlocal acquired
        acquired = await within_limit(leases.acquire(name, owner, ttl=ttl), timeout=timeout)

    try:
        await shielded(request())
    except BaseException:
        if acquired is not None:
            await release(leases, acquired)
        raise
    return acquired


async def keep_alive(leases: LeaseStore, lease: Lease, ttl: float, sent: float) -> None:
    """Renew ``lease`` until it is lost.

    Its end is computed with this process's monotonic clock, from the time before a request was sent: the store cannot
    have started to count earlier.

    :param ttl: the duration for which it was acquired and is renewed, in seconds
    :param sent: :func:`anyio.current_time` before it was acquired
    :raises LeaseLost: if it is lost, or could not be renewed; the latter before it expires
    """
    safe_until, delay = sent + ttl * _SAFE, ttl * _RENEW
    while True:
        await anyio.sleep(delay * random.uniform(0.8, 1.0))
        sent = anyio.current_time()
        if sent >= safe_until:
            # This also happens after the process was paused.
            raise NotRenewed(lease, ttl=ttl)
        with anyio.CancelScope(deadline=safe_until) as limit:
            try:
                await leases.renew(lease, ttl=ttl)
                safe_until, delay = sent + ttl * _SAFE, ttl * _RENEW
            except LeaseLost:
                raise
            except Exception as exc:
                delay = min(ttl * _RETRY, safe_until - sent)
                logger.warning(
                    "consumer %s: lease not renewed, retrying in %.1f s: %s",
                    lease.name,
                    delay,
                    exc,
                    extra={"consumer": lease.name},
                )
        if limit.cancelled_caught:
            raise NotRenewed(lease, ttl=ttl)


async def release(leases: LeaseStore, lease: Lease) -> None:
    """Release ``lease``, also if cancelled. If that fails, it expires."""
    await shielded(_release(leases, lease))


async def _release(leases: LeaseStore, lease: Lease) -> None:
    try:
        await within_limit(leases.release(lease), timeout=_RELEASE_TIMEOUT)
    except Exception as exc:
        logger.warning("lease %s: not released, it will expire: %s", lease.name, exc)
