"""The processes that run the same consumers: each is a member, by a lease of its own."""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import count

import anyio

from reflex_aio.lease import LeaseState
from reflex_aio.runner.lease_keepalive import Keepalive, KeptLease, acquire, within_limit

__all__ = ["Membership"]

_PREFIX = "reflex_aio.runner"


class Membership:
    """This process's membership in the group of processes that run the same consumers.

    Each member holds a lease of one of the names ``reflex_aio.runner/digest/1``, ``/2`` and so on. The digest is that
    of the consumers' names: processes with other consumers, such as the previous version during a rolling update,
    belong to another group. Released names are reused, so that their number does not grow with each restart.

    :param keepalive: renews the membership
    :param owner: this process
    :param names: its consumers
    :param timeout: time limit of each request to the lease store, in seconds
    """

    def __init__(self, keepalive: Keepalive, owner: str, names: Iterable[str], *, timeout: float) -> None:
        digest = sha256("\0".join(sorted(names)).encode()).hexdigest()[:12]
        self._keepalive = keepalive
        self._owner = owner
        self._prefix = f"{_PREFIX}/{digest}/"
        self._timeout = timeout
        self._kept: KeptLease | None = None

    async def states(self) -> Mapping[str, LeaseState]:
        """Join the group unless this process is a member, and return the states of all leases after that.

        :raises TimeoutError: if the lease store does not answer in time
        """
        states = await self._states()
        if self._kept is not None and not self._kept.is_lost:
            return states
        if self._kept is not None:
            self._keepalive.drop(self._kept)
        self._kept = await self._join(states)
        return await self._states()

    async def _states(self) -> Mapping[str, LeaseState]:
        return await within_limit(self._keepalive.leases.all(), timeout=self._timeout)

    async def _join(self, states: Mapping[str, LeaseState]) -> KeptLease:
        for number in count(1):
            name = f"{self._prefix}{number}"
            state = states.get(name)
            if state is not None and state.is_held and state.owner != self._owner:
                continue
            sent, keepalive = anyio.current_time(), self._keepalive
            # None if another process was faster.
            lease = await acquire(
                keepalive.leases, name, self._owner, ttl=keepalive.ttl, timeout=self._timeout
            )
            if lease is not None:
                return keepalive.keep(lease, sent=sent)
        raise AssertionError

    async def leave(self) -> None:
        """Leave the group: the other members take over the consumers that this process releases."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            await kept.release()

    def concerns(self, name: str) -> bool:
        """Return whether ``name`` is that of a member in the group, present or former."""
        return name.startswith(self._prefix)

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
