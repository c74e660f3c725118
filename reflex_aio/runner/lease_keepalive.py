"""Acquires, renews and releases leases, each request within a time limit. All leases are renewed in one request."""

import logging
import random
from collections.abc import Awaitable, Collection
from typing import NoReturn, TypeVar

import anyio

from reflex_aio.errors import LeaseLost
from reflex_aio.lease import Lease, LeaseStore
from reflex_aio.tasks import shielded

__all__ = ["Keepalive", "KeptLease", "NotRenewed", "acquire", "release", "within_limit"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Fractions of the ttl: when to renew, when to retry after a failure, and when to give up the lease.
_RENEW = 1 / 3
_RETRY = 1 / 10
_SAFE = 9 / 10
# The time limit for a renewal of all leases: a share of the time that is left, but at least this fraction of the ttl,
# within which a store reports the leases that it could not renew. Then it is tried again, on a new connection.
_TIMEOUT_SHARE = 1 / 2
_LEAST_TIMEOUT = 1 / 4
# How long releasing a lease may take, in seconds. Otherwise it expires.
_RELEASE_TIMEOUT = 5.0
# The number of names that a log message lists.
_LISTED = 3


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
    raise TimeoutError(f"the lease store did not answer within {timeout:.3g} s")


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


async def release(leases: LeaseStore, lease: Lease) -> None:
    """Release ``lease``, also if cancelled. If that fails, it expires."""
    await shielded(_release(leases, lease))


async def _release(leases: LeaseStore, lease: Lease) -> None:
    try:
        await within_limit(leases.release(lease), timeout=_RELEASE_TIMEOUT)
    except Exception as exc:
        logger.warning("lease %s: not released, it will expire: %s", lease.name, exc)


class KeptLease:
    """A lease that a :class:`Keepalive` renews."""

    def __init__(self, keepalive: "Keepalive", lease: Lease, *, safe_until: float) -> None:
        self._keepalive = keepalive
        self.lease = lease
        self.safe_until: float = safe_until
        """The time by :func:`anyio.current_time` until which no other process can acquire it."""
        self._error: LeaseLost | None = None
        self._lost = anyio.Event()

    @property
    def is_lost(self) -> bool:
        """True if it is lost, or was not renewed in time."""
        return self._error is not None or anyio.current_time() >= self.safe_until

    async def lost(self) -> NoReturn:
        """Wait until the lease is lost.

        :raises LeaseLost: if it is lost, or could not be renewed; the latter before it expires
        """
        while not self.is_lost:
            with anyio.CancelScope(deadline=self.safe_until):
                await self._lost.wait()
        raise self._error or NotRenewed(self.lease, ttl=self._keepalive.ttl)

    def lose(self, error: LeaseLost) -> None:
        """Make :meth:`lost` raise ``error``."""
        self._error = error
        self._lost.set()

    async def release(self) -> None:
        """Stop renewing the lease, and release it, also if cancelled. If that fails, it expires."""
        self._keepalive.drop(self)
        await release(self._keepalive.leases, self.lease)


class Keepalive:
    """Renews all leases of a process together, until they are lost or released.

    The end of a lease is computed with this process's monotonic clock, from the time before a request was sent: the
    store cannot have started to count earlier.

    :param ttl: the duration for which leases are acquired and renewed, in seconds
    """

    def __init__(self, leases: LeaseStore, *, ttl: float) -> None:
        self.leases = leases
        self.ttl = ttl
        self._kept: set[KeptLease] = set()

    def keep(self, lease: Lease, *, sent: float) -> KeptLease:
        """Renew ``lease`` from now on.

        :param sent: :func:`anyio.current_time` before it was acquired
        """
        kept = KeptLease(self, lease, safe_until=sent + self.ttl * _SAFE)
        self._kept.add(kept)
        return kept

    def drop(self, kept: KeptLease) -> None:
        """Renew a lease no more."""
        self._kept.discard(kept)

    async def run(self) -> None:
        """Renew the leases, without end."""
        delay = self.ttl * _RENEW
        while True:
            await anyio.sleep(delay * random.uniform(0.8, 1.0))
            delay = await self._renew()

    async def _renew(self) -> float:
        """Renew all leases, and return the delay before the next time, in seconds."""
        sent = anyio.current_time()
        # Not those that were not renewed in time, as after this process was paused.
        kept = {each.lease: each for each in self._kept if not each.is_lost}
        if not kept:
            return self.ttl * _RENEW
        left = min(each.safe_until for each in kept.values()) - sent
        timeout = max(left * _TIMEOUT_SHARE, self.ttl * _LEAST_TIMEOUT)
        try:
            errors = await within_limit(self.leases.renew_many(list(kept), ttl=self.ttl), timeout=timeout)
        except TimeoutError as exc:
            # The connection may be half-open: try again on a new one, as long as there is time.
            self._warn(kept, 0.0, exc)
            return 0.0
        except Exception as exc:
            self._warn(kept, self.ttl * _RETRY, exc)
            return self.ttl * _RETRY
        failed: list[Lease] = []
        for lease, each in kept.items():
            error = errors.get(lease)
            if error is None:
                each.safe_until = sent + self.ttl * _SAFE
            elif isinstance(error, LeaseLost):
                each.lose(error)
            else:
                failed.append(lease)
        if failed:
            self._warn(failed, self.ttl * _RETRY, errors[failed[0]])
            return self.ttl * _RETRY
        return self.ttl * _RENEW

    def _warn(self, leases: Collection[Lease], delay: float, error: Exception) -> None:
        names = sorted(lease.name for lease in leases)
        listed = ", ".join(names[:_LISTED]) + (
            f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        )
        logger.warning("leases not renewed, retrying in %.1f s: %s: %s", delay, listed, error)
