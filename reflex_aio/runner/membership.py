"""The processes that run the same consumers: each is a member, by a lease of its own."""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import count

from reflex_aio.errors import LeaseLost
from reflex_aio.lease import Lease, LeaseState, LeaseStore
from reflex_aio.runner.lease_keepalive import acquire, release, within_limit

__all__ = ["Membership"]

_PREFIX = "reflex_aio.runner"


class Membership:
    """This process's membership in the group of processes that run the same consumers.

    Each member holds a lease of one of the names ``reflex_aio.runner/digest/1``, ``/2`` and so on. The digest is that
    of the consumers' names: processes with other consumers, such as the previous version during a rolling update,
    belong to another group. Released names are reused, so that their number does not grow with each restart.

    :param owner: this process
    :param names: its consumers
    :param ttl: time until a membership expires unless it is renewed, in seconds
    :param timeout: time limit of each request to the lease store, in seconds
    """

    def __init__(
        self, leases: LeaseStore, owner: str, names: Iterable[str], *, ttl: float, timeout: float
    ) -> None:
        digest = sha256("\0".join(sorted(names)).encode()).hexdigest()[:12]
        self._leases = leases
        self._owner = owner
        self._prefix = f"{_PREFIX}/{digest}/"
        self._ttl = ttl
        self._timeout = timeout
        self._lease: Lease | None = None

    async def renew(self) -> Mapping[str, LeaseState]:
        """Join the group, or renew the membership, and return the states of all leases after that.

        :raises TimeoutError: if the lease store does not answer in time
        """
        if self._lease is not None:
            try:
                await within_limit(self._leases.renew(self._lease, ttl=self._ttl), timeout=self._timeout)
            except LeaseLost:
                self._lease = None
        if self._lease is None:
            self._lease = await self._join(await self._states())
        return await self._states()

    async def _states(self) -> Mapping[str, LeaseState]:
        return await within_limit(self._leases.all(), timeout=self._timeout)

    async def _join(self, states: Mapping[str, LeaseState]) -> Lease:
        for number in count(1):
            name = f"{self._prefix}{number}"
            state = states.get(name)
            if state is not None and state.is_held and state.owner != self._owner:
                continue
            # None if another process was faster.
            lease = await acquire(self._leases, name, self._owner, ttl=self._ttl, timeout=self._timeout)
            if lease is not None:
                return lease
        raise AssertionError

    async def leave(self) -> None:
        """Leave the group: the other members take over the consumers that this process releases."""
        if self._lease is not None:
            lease, self._lease = self._lease, None
            await release(self._leases, lease)

    def members(self, states: Mapping[str, LeaseState]) -> set[str]:
        """Return the owners in the group, including this process."""
        members = {
            state.owner for name, state in states.items() if name.startswith(self._prefix) and state.is_held
        }
        return members | {self._owner}

    def outsiders(self, states: Mapping[str, LeaseState]) -> set[str]:
        """Return the owners in other groups."""
        return {
            state.owner
            for name, state in states.items()
            if name.startswith(f"{_PREFIX}/") and not name.startswith(self._prefix) and state.is_held
        }
