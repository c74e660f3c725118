"""Who else hosts the same consumers."""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import count

from reflex_aio.errors import LeaseLost
from reflex_aio.lease import Lease, LeaseState, LeaseStore
from reflex_aio.runner.lease_keepalive import acquire, answered, release

__all__ = ["Membership"]

_PREFIX = "reflex_aio.runner"


class Membership:
    """One of the processes that host the same consumers.

    Each holds a lease of one of the names ``reflex_aio.runner/digest/1``, ``/2`` and so on, whose digest is that of the
    consumers' names: so processes that host others don't count, as those of the version before while a new one is
    rolled out. Names are taken again when they are free, so their number doesn't grow with every restart.

    :param owner: who this process is
    :param names: the consumers that it hosts
    :param ttl: how long being a member holds unless it is renewed, in seconds
    :param within: how long the store of the leases may take for an answer, in seconds
    """

    def __init__(
        self, leases: LeaseStore, owner: str, names: Iterable[str], *, ttl: float, within: float
    ) -> None:
        digest = sha256("\0".join(sorted(names)).encode()).hexdigest()[:12]
        self._leases = leases
        self._owner = owner
        self._prefix = f"{_PREFIX}/{digest}/"
        self._ttl = ttl
        self._within = within
        self._lease: Lease | None = None

    async def keep(self) -> Mapping[str, LeaseState]:
        """Become a member, or stay one, and return the states of all leases thereafter.

        :raises TimeoutError: if the store of the leases doesn't answer
        """
        if self._lease is not None:
            try:
                await answered(self._leases.renew(self._lease, ttl=self._ttl), within=self._within)
            except LeaseLost:
                self._lease = None
        if self._lease is None:
            self._lease = await self._join(await self._states())
        return await self._states()

    async def _states(self) -> Mapping[str, LeaseState]:
        return await answered(self._leases.all(), within=self._within)

    async def _join(self, states: Mapping[str, LeaseState]) -> Lease:
        for number in count(1):
            name = f"{self._prefix}{number}"
            state = states.get(name)
            if state is not None and state.is_held and state.owner != self._owner:
                continue
            # None if another one was faster.
            lease = await acquire(self._leases, name, self._owner, ttl=self._ttl, within=self._within)
            if lease is not None:
                return lease
        raise AssertionError

    async def leave(self) -> None:
        """Be a member no more: the others share what this process gives back."""
        if self._lease is not None:
            lease, self._lease = self._lease, None
            await release(self._leases, lease)

    def peers(self, states: Mapping[str, LeaseState]) -> set[str]:
        """Return the owners that are members, this one included."""
        members = {
            state.owner for name, state in states.items() if name.startswith(self._prefix) and state.is_held
        }
        return members | {self._owner}

    def others(self, states: Mapping[str, LeaseState]) -> set[str]:
        """Return the owners that host other consumers than this process."""
        return {
            state.owner
            for name, state in states.items()
            if name.startswith(f"{_PREFIX}/") and not name.startswith(self._prefix) and state.is_held
        }
