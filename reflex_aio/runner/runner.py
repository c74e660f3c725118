"""Runs many specs in one process: starts, restarts and drains them, and reports their states."""

import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from signal import Signals
from types import TracebackType
from typing import Self

import anyio

from reflex_aio.backoff import Backoff
from reflex_aio.checks import check_instance, check_seconds
from reflex_aio.health import ConsumerState, ConsumerStatus
from reflex_aio.lease import LeaseStore, check_ttl
from reflex_aio.runner.assignment import Rebalancer
from reflex_aio.runner.lease_keepalive import Keepalive, KeptLease
from reflex_aio.runner.supervised import SupervisedSpec
from reflex_aio.running.supervisor import check_endless
from reflex_aio.spec import Spec
from reflex_aio.tasks import Group, Tasks, on_asyncio

__all__ = ["Runner"]

logger = logging.getLogger(__name__)

# How long a consumer may run after it was cancelled before the process must be restarted, in seconds.
_OVERDUE = 30.0


class Runner:
    """Runs specs: starts them, restarts those that fail, reports their states, and drains them at the end.

    ::

        async with Runner([spec, ...], leases=leases.store(pool), drain=20.0) as runner:
            yield                                                # e.g. a FastAPI lifespan

    On asyncio it is an asynchronous context manager: the specs run in the background, and their failures do not end the
    body. On leaving, the specs drain: consumers receive no more events, those in hand are finished, the cursors are
    stored, and the leases are released. A consumer that has not drained after ``drain`` seconds is cancelled. If
    leaving is itself cancelled, all consumers are cancelled at once. On trio, or in a program that does nothing else,
    use
    :meth:`run`.

    With ``leases``, each consumer runs in one process at a time. The processes with the same consumers share them
    evenly, including the shards of one consumer, and rebalance when a process joins or leaves. When a process dies, the
    others take over its consumers after at most ``lease_ttl`` seconds. A process that has lost a lease cannot move the
    cursor.

    :param specs: the specs to run, without ``to_head``
    :param leases: the lease store that assigns consumers to processes, next to the cursors; ``None`` to run all here
    :param lease_ttl: time until a lease expires unless it is renewed, in seconds
    :param drain: time limit for the consumers to drain, in seconds
    :param backoff: delays before a consumer that failed is restarted; by default 0.1 to 30 seconds
    :param owner: a name for this process among those that share the leases, never used by another process or by this
        one before a restart; by default it is made of the host name
    :raises ValueError: if there is no spec, if two consumers have the same name, if a spec ends at the head, or if a
        duration is out of range
    :raises TypeError: if an argument has the wrong type, or a spec's cursor store cannot compare the leases
    """

    def __init__(
        self,
        specs: Iterable[Spec],
        *,
        leases: LeaseStore | None = None,
        lease_ttl: float = 15.0,
        drain: float = 20.0,
        backoff: Backoff | None = None,
        owner: str | None = None,
    ) -> None:
        self._specs: dict[str, SupervisedSpec] = {}
        backoff = Backoff() if backoff is None else backoff
        check_instance("specs", specs, Iterable, "a list of specs")
        for spec in specs:
            self._add(spec, backoff)
        if not self._specs:
            raise ValueError("specs is empty: accepted is at least one spec")
        check_instance(
            "leases", leases, LeaseStore | None, "a LeaseStore, such as leases.store(pool), or None"
        )
        if leases is not None:
            for supervised in self._specs.values():
                supervised.spec.check_leases(leases)
        check_ttl(lease_ttl)
        check_seconds("drain", drain, zero=True)
        self.owner: str = owner or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._leases = leases
        self._ttl = lease_ttl
        self._drain = drain
        self._group = Group("runner")
        self._tasks = Tasks()
        self._began = False
        self._ending = False
        self._failed = False
        self.interrupted_by: Signals | None = None
        """The signal that cancelled the consumers, if one did."""
        self._changed = anyio.Event()
        self._done = anyio.Event()

    def _add(self, spec: Spec, backoff: Backoff) -> None:
        check_instance("spec", spec, Spec, "a Spec")
        check_endless(spec)
        name = spec.consumer.name
        if name in self._specs:
            raise ValueError(f"two consumers have the name {name!r}: their cursors are stored by name")
        self._specs[name] = SupervisedSpec(spec, backoff=backoff, changed=self._notify_changed)

    def __repr__(self) -> str:
        return f"Runner({[spec.spec for spec in self._specs.values()]!r})"

    # State.

    @property
    def ready(self) -> bool:
        """True if every consumer runs, or waits for its lease. False while the runner drains."""
        # A consumer that drains by itself is being moved to another process.
        healthy = (ConsumerState.RUNNING, ConsumerState.STANDBY, ConsumerState.DRAINING)
        return (
            self._began and not self._ending and all(spec.state in healthy for spec in self._specs.values())
        )

    @property
    def live(self) -> bool:
        """False if the process should be restarted.

        It should be restarted if the runner has failed as a whole, if a consumer has stopped that should run, or if a
        consumer still runs 30 seconds after it was cancelled because it lost its lease or did not drain in time. A
        consumer that fails again and again is no reason: a restart would not help.
        """
        if self._failed:
            return False
        if self._began and not self._ending:
            for spec in self._specs.values():
                if spec.state is ConsumerState.STOPPED:
                    return False
        return all(spec.overdue() <= _OVERDUE for spec in self._specs.values())

    def statuses(self) -> dict[str, ConsumerStatus]:
        """Return the status of each consumer by name."""
        return {name: spec.status for name, spec in self._specs.items()}

    async def changed(self) -> None:
        """Return at the next change of any consumer's state."""
        await self._changed.wait()

    @property
    def unfinished(self) -> list[str]:
        """The consumers that were cancelled because they did not drain in time."""
        return [name for name, spec in self._specs.items() if spec.unfinished]

    # Running.

    async def run(self, *, signals: Iterable[Signals] = ()) -> None:
        """Run the specs, on asyncio or trio, until :meth:`drain`, a signal, or a cancellation of the caller.

        :param signals: the first of these drains, the second cancels all consumers. Signal handlers are installed for
            the duration of the call, which must be in the main thread
        :raises RuntimeError: if the runner was used before
        """
        self._begin()
        signals, group = tuple(signals), Group("runner")

        async def handle_signals() -> None:
            with anyio.open_signal_receiver(*signals) as received:
                async for signal in received:
                    if self._ending:
                        logger.warning("%s: cancelling all consumers", signal.name)
                        self.interrupted_by = signal
                        raise _Interrupted
                    logger.info("%s: draining for up to %g s", signal.name, self._drain)
                    self.end()

        async def work() -> None:
            if signals:
                group.start(handle_signals)
            await self._serve()

        try:
            await group.run(work)
        except _Interrupted:
            pass

    async def __aenter__(self) -> Self:
        if not on_asyncio():
            raise RuntimeError("a Runner is a context manager on asyncio only: elsewhere, await runner.run()")
        self._begin()
        self._tasks.start(self._serve(), name="reflex_aio runner")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.drain()
        finally:
            await self._tasks.aclose()

    def end(self) -> None:
        """Start to drain, and return at once."""
        self._ending = True
        self._notify_changed()

    async def drain(self) -> None:
        """Receive no more events, finish those in hand, and return when all consumers have ended.

        Consumers that have not drained within the runner's time limit are cancelled.
        """
        self.end()
        if self._began:
            await self._done.wait()

    def _begin(self) -> None:
        if self._began:
            raise RuntimeError("a Runner can be used once: make another one")
        self._began = True

    async def _serve(self) -> None:
        try:
            if self._leases is None:
                await self._group.run(self._run_all)
            else:
                async with self._leases as leases:
                    await self._group.run(partial(self._run_assigned, Keepalive(leases, ttl=self._ttl)))
        except BaseException as exc:
            self._failed = not isinstance(exc, anyio.get_cancelled_exc_class())
            raise
        finally:
            self._ending = True
            for spec in self._specs.values():
                spec.set_state(ConsumerState.STOPPED)
            self._done.set()

    async def _run_all(self) -> None:
        for spec in self._specs.values():
            self._start(spec, spec.run)
        await self._wait_for_end()
        await self._drain_all()

    async def _run_assigned(self, keepalive: Keepalive) -> None:
        def start(spec: SupervisedSpec, kept: KeptLease) -> None:
            self._start(spec, partial(spec.run_under, kept))

        rebalancer = Rebalancer(keepalive, self._specs, owner=self.owner, drain=self._drain, start=start)
        self._group.start(keepalive.run)
        self._group.start(rebalancer.run)
        await self._wait_for_end()
        # Returns at once, even if the lease store does not answer.
        rebalancer.end()
        await self._drain_all()
        await rebalancer.left.wait()

    async def _wait_for_end(self) -> None:
        while not self._ending:
            await self._changed.wait()

    def _start(self, spec: SupervisedSpec, run: Callable[[], Awaitable[None]]) -> None:
        spec.is_active = True
        self._group.start(self._run_guarded, spec, run)

    async def _run_guarded(self, spec: SupervisedSpec, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except Exception as exc:
            # Not an error of the consumer, but of this package or of hooks. The other consumers continue.
            logger.exception("consumer %s cannot be run", spec.name, extra={"consumer": spec.name})
            spec.set_state(ConsumerState.STOPPED, exc)
        finally:
            spec.is_active = False
            self._notify_changed()

    async def _drain_all(self) -> None:
        for spec in self._specs.values():
            spec.end(timeout=self._drain)
        while any(spec.is_active for spec in self._specs.values()):
            await self._changed.wait()
        if names := self.unfinished:
            logger.warning("consumers cancelled, not drained within %g s: %s", self._drain, ", ".join(names))

    def _notify_changed(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class _Interrupted(Exception):
    """Raised by the second signal, to cancel all consumers."""
