"""Assigns consumers to the member processes, and acquires the leases of those assigned to this one."""

import logging
import random
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import sha256
from itertools import count

import anyio

from reflex_aio.health import ConsumerState
from reflex_aio.lease import LeaseState
from reflex_aio.runner.lease_keepalive import Keepalive, KeptLease, acquire, release, within_limit
from reflex_aio.runner.supervised import SupervisedSpec

__all__ = ["Membership", "Rebalancer", "assign"]

logger = logging.getLogger(__name__)

# The names that reflex_aio.patterns.shards makes.
_SHARD = re.compile(r"(.+)_\d+_of_(\d+)", re.DOTALL)

# Fractions of the ttl: the period of rebalancing, which is also the time limit of a request, and the delay after an
# error.
_PERIOD = 1 / 3
_RETRY = 1 / 10
# The longest delay between the expiry of another process's lease and the next rebalancing, in seconds.
_EXPIRY_DELAY = 0.05

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


def assign(names: Iterable[str], members: Collection[str], owners: Mapping[str, str]) -> dict[str, str]:
    """Return the member that is to run each consumer.

    The numbers of consumers per member differ by at most one, and so do the numbers of shards of each consumer. Within
    these limits, members keep the consumers that they run. Members with the same information compute the same result,
    and the result is stable: once it is reached, it is computed again.

    :param names: the consumers; those named ``base_1_of_4``, with the same base and count, are shards of one consumer
    :param members: the processes that can run them, at least one
    :param owners: the processes that run them now
    """
    assigned: dict[str, str] = {}
    totals = dict.fromkeys(sorted(members), 0)
    for group in _groups(names):
        owned = {member: [name for name in group if owners.get(name) == member] for member in totals}
        least, more = divmod(len(group), len(totals))
        # The rest goes to members with the fewest consumers so far; among these, to members that would have to release
        # one.
        by_need = sorted(totals, key=lambda member: (totals[member], -len(owned[member])))
        shares = {member: least + (rank < more) for rank, member in enumerate(by_need)}
        kept = {name: member for member in totals for name in owned[member][: shares[member]]}
        for member in kept.values():
            shares[member] -= 1
        open_places = iter([member for member in by_need for _ in range(shares[member])])
        for name in group:
            member = assigned[name] = kept.get(name) or next(open_places)
            totals[member] += 1
    return assigned


def _groups(names: Iterable[str]) -> list[list[str]]:
    """Return the shards of each consumer, followed by all consumers without shards as one group."""
    bases: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in sorted(names):
        shard = _SHARD.fullmatch(name)
        bases[shard.groups() if shard else ()].append(name)
    return [bases[base] for base in sorted(bases, reverse=True)]


class Rebalancer:
    """Runs the consumers that are assigned to this process, and drains those that are assigned to others.

    :param keepalive: renews the leases
    :param specs: the specs by consumer
    :param owner: this process
    :param drain: time limit for a consumer to drain, in seconds
    :param start: runs a spec under a lease in the background, until it is ended or the lease is lost
    """

    def __init__(
        self,
        keepalive: Keepalive,
        specs: Mapping[str, SupervisedSpec],
        *,
        owner: str,
        drain: float,
        start: Callable[[SupervisedSpec, KeptLease], None],
    ) -> None:
        self._keepalive = keepalive
        self._specs = specs
        self._owner = owner
        self._ttl = keepalive.ttl
        self._drain = drain
        self._start = start
        self._membership = Membership(keepalive, owner, specs, timeout=self._ttl * _PERIOD)
        self._ending = anyio.Event()
        self.left: anyio.Event = anyio.Event()
        """Set when no more leases are acquired, and the other processes can see that."""

    def end(self) -> None:
        """Acquire no more leases. Running consumers are not affected."""
        self._ending.set()

    async def run(self) -> None:
        """Rebalance periodically, until :meth:`end` is called."""
        try:
            while not self._ending.is_set():
                delay = await self._rebalance()
                with anyio.move_on_after(delay):
                    await self._ending.wait()
        finally:
            await self._membership.leave()
            self.left.set()

    async def _rebalance(self) -> float:
        """Return the delay before the next time, in seconds."""
        try:
            states = await self._membership.states()
            await self._apply(states)
            return self._next_delay(states)
        except Exception as exc:
            delay = self._ttl * _RETRY
            logger.warning("leases: retrying in %.1f s: %r", delay, exc)
            for spec in self._waiting():
                spec.set_state(ConsumerState.BACKING_OFF, exc)
            return delay

    async def _apply(self, states: Mapping[str, LeaseState]) -> None:
        owners = {name: states[name].owner for name in self._specs if name in states and states[name].is_held}
        outsiders = self._membership.outsiders(states)
        names = [name for name in self._specs if owners.get(name) not in outsiders]
        assigned = assign(names, self._membership.members(states), owners)
        for name in names:
            spec, mine = self._specs[name], assigned[name] == self._owner
            if spec.is_active and not mine:
                spec.end(timeout=self._drain)
            elif mine and not spec.is_active and owners.get(name, self._owner) == self._owner:
                await self._acquire(spec)
        for spec in self._waiting():
            spec.set_state(ConsumerState.STANDBY)

    async def _acquire(self, spec: SupervisedSpec) -> None:
        if self._ending.is_set() or spec.state is ConsumerState.STOPPED:
            return
        sent = anyio.current_time()
        leases = self._keepalive.leases
        lease = await acquire(leases, spec.name, self._owner, ttl=self._ttl, timeout=self._ttl * _PERIOD)
        if lease is None:
            # Another process was faster.
            return
        if self._ending.is_set():
            # The runner has ended all active specs in the meantime: nothing would end this one.
            await release(leases, lease)
        else:
            self._start(spec, self._keepalive.keep(lease, sent=sent))

    def _next_delay(self, states: Mapping[str, LeaseState]) -> float:
        # A lease that another process does not renew expires before the next regular time. Those of other services in
        # the same table are none of this one's business, and may have a shorter ttl.
        expiring = [
            state.seconds_left + random.uniform(0, _EXPIRY_DELAY)
            for name, state in states.items()
            if state.is_held
            and state.owner != self._owner
            and (name in self._specs or self._membership.concerns(name))
        ]
        return min([self._ttl * _PERIOD * random.uniform(0.8, 1.0), *expiring])

    def _waiting(self) -> list[SupervisedSpec]:
        return [
            spec
            for spec in self._specs.values()
            if not spec.is_active and spec.state is not ConsumerState.STOPPED
        ]
