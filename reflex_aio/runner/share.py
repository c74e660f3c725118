"""A process's share of the consumers that several processes host."""

import logging
import random
from collections.abc import Callable, Mapping

import anyio

from reflex_aio.health import ConsumerState
from reflex_aio.lease import Lease, LeaseState, LeaseStore
from reflex_aio.runner.assignment import deal
from reflex_aio.runner.lease_keepalive import acquire, release
from reflex_aio.runner.membership import Membership
from reflex_aio.runner.supervised import Host

__all__ = ["Share"]

logger = logging.getLogger(__name__)

# Shares of the ttl: how often to look, which is how long a request may take too, and when to look again if that failed.
_LOOK = 1 / 3
_RETRY = 1 / 10
# How long after a lease has expired to look at it, in seconds at most.
_LATE = 0.05


class Share:
    """Takes the leases of those consumers that this process is to run, and gives back those that others are to run.

    :param hosts: what can run here, by name
    :param owner: who this process is
    :param ttl: how long leases hold, in seconds
    :param drain: how long a consumer that is given back may take to finish what it has in hand, in seconds
    :param start: runs a host under a lease, in the background, until it is told to end or the lease is lost
    """

    def __init__(
        self,
        leases: LeaseStore,
        hosts: Mapping[str, Host],
        *,
        owner: str,
        ttl: float,
        drain: float,
        start: Callable[[Host, Lease, float], None],
    ) -> None:
        self._leases = leases
        self._hosts = hosts
        self._owner = owner
        self._ttl = ttl
        self._drain = drain
        self._start = start
        self._membership = Membership(leases, owner, hosts, ttl=ttl, within=ttl * _LOOK)
        self._told = anyio.Event()
        self.left = anyio.Event()
        """Set when nothing more is taken, and the other processes know it."""

    def end(self) -> None:
        """Take nothing more. What runs already is left alone."""
        self._told.set()

    async def keep(self) -> None:
        """Look again and again what is to run here, until told to end."""
        try:
            while not self._told.is_set():
                delay = await self._look_safely()
                with anyio.move_on_after(delay):
                    await self._told.wait()
        finally:
            await self._membership.leave()
            self.left.set()

    async def _look_safely(self) -> float:
        """Return in how many seconds to look again."""
        try:
            states = await self._membership.keep()
            await self._take_and_give(states)
            return self._next_look(states)
        except Exception as exc:
            delay = self._ttl * _RETRY
            logger.warning("leases: looking again in %.1f s: %r", delay, exc)
            for host in self._waiting():
                host.tell(ConsumerState.BACKING_OFF, exc)
            return delay

    async def _take_and_give(self, states: Mapping[str, LeaseState]) -> None:
        held = {name: states[name].owner for name in self._hosts if name in states and states[name].is_held}
        foreign = self._membership.others(states)
        shared = [name for name in self._hosts if held.get(name) not in foreign]
        plan = deal(shared, self._membership.peers(states), held)
        for name in shared:
            host, mine = self._hosts[name], plan[name] == self._owner
            if host.is_hosted and not mine:
                host.end(within=self._drain)
            elif mine and not host.is_hosted and held.get(name, self._owner) == self._owner:
                await self._take(host)
        for host in self._waiting():
            host.tell(ConsumerState.STANDBY)

    async def _take(self, host: Host) -> None:
        if self._told.is_set() or host.state is ConsumerState.STOPPED:
            return
        sent = anyio.current_time()
        lease = await acquire(self._leases, host.name, self._owner, ttl=self._ttl, within=self._ttl * _LOOK)
        if lease is None:
            # Another process was faster.
            return
        if self._told.is_set():
            # Meanwhile: whatever runs has been told to end by now, and this one would never be.
            await release(self._leases, lease)
        else:
            self._start(host, lease, sent)

    def _next_look(self, states: Mapping[str, LeaseState]) -> float:
        # What the others don't renew expires before the usual time to look.
        expiring = [
            state.seconds_left + random.uniform(0, _LATE)
            for state in states.values()
            if state.is_held and state.owner != self._owner
        ]
        return min([self._ttl * _LOOK * random.uniform(0.8, 1.0), *expiring])

    def _waiting(self) -> list[Host]:
        return [
            host
            for host in self._hosts.values()
            if not host.is_hosted and host.state is not ConsumerState.STOPPED
        ]
