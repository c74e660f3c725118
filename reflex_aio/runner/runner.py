"""Many specs in one process: who runs what, what it is doing, and how it ends."""

import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable
from signal import Signals
from types import TracebackType
from typing import Self

import anyio

from reflex_aio.backoff import Backoff
from reflex_aio.checks import check_instance, check_seconds
from reflex_aio.health import ConsumerState, ConsumerStatus
from reflex_aio.lease import Lease, LeaseStore, check_ttl
from reflex_aio.runner.share import Share
from reflex_aio.runner.supervised import Host
from reflex_aio.running.run import check_endless
from reflex_aio.spec import Spec
from reflex_aio.tasks import Group, Tasks, on_asyncio

__all__ = ["Runner"]

logger = logging.getLogger(__name__)

# How long a consumer may go on after it was cancelled before only a restart can help, in seconds.
_OVERDUE = 30.0


class Runner:
    """Hosts specs: starts them, runs each again when it fails, knows what it is doing, and drains them in the end.

    ::

        async with Runner([spec, ...], leases=leases.store(pool), drain=20.0) as runner:
            yield                                                # e.g. a FastAPI lifespan

    On asyncio it is an asynchronous context manager: the specs run in the background, and no failure of theirs
    ends the body. Leaving drains: no consumer takes a further event, what they have in hand is finished, the
    cursors are stored, the leases are released; what isn't finished after ``drain`` seconds is cancelled. Leaving
    that is cancelled itself cancels at once. Elsewhere, or where there is nothing else to do: :meth:`run`.

    With ``leases``, each consumer runs in one process at a time. The processes that host the same consumers share
    them evenly, the shards of one consumer too, and share anew when one joins or leaves. When one dies, the others
    go on with what it had ``lease_ttl`` seconds later at most. One that has lost a lease can't move the cursor.

    :param specs: what to host; none of them with ``to_head``
    :param leases: who runs what is kept there, beside the cursors; without, everything runs here
    :param lease_ttl: how long a lease holds unless it is renewed, in seconds
    :param drain: how long the consumers may take to finish what they have in hand, in seconds
    :param backoff: how long to wait before a consumer that failed is run again; by default 0.1 to 30 seconds
    :param owner: a name for this process among those that share the leases, which no other has or had; by default
        one is made of the host's name
    :raises ValueError: if there is no spec, two have consumers of the same name, one ends at the head, or a
        duration is out of its range
    :raises TypeError: if an argument has the wrong type
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
        self._hosts: dict[str, Host] = {}
        backoff = Backoff() if backoff is None else backoff
        check_instance("specs", specs, Iterable, "a list of specs")
        for spec in specs:
            self._add(spec, backoff)
        if not self._hosts:
            raise ValueError("there are no specs to run")
        check_instance(
            "leases", leases, LeaseStore | None, "a LeaseStore, such as leases.store(pool), or None"
        )
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
        """The signal that ended everything at once, if one did."""
        self._changed = anyio.Event()
        self._done = anyio.Event()

    def _add(self, spec: Spec, backoff: Backoff) -> None:
        check_instance("spec", spec, Spec, "a Spec")
        check_endless(spec)
        name = spec.consumer.name
        if name in self._hosts:
            raise ValueError(f"two consumers have the name {name!r}, by which their cursors are kept")
        self._hosts[name] = Host(spec, backoff=backoff, changed=self._has_changed)

    def __repr__(self) -> str:
        return f"Runner({[host.spec for host in self._hosts.values()]!r})"

    # What it is doing.

    @property
    def ready(self) -> bool:
        """Whether every consumer runs, or stands by for its lease. Not while draining."""
        # One that is draining is being handed over to another process.
        at_work = (ConsumerState.RUNNING, ConsumerState.STANDBY, ConsumerState.DRAINING)
        return (
            self._began and not self._ending and all(host.state in at_work for host in self._hosts.values())
        )

    @property
    def live(self) -> bool:
        """Whether no restart of the process is called for.

        It is if the runner has failed as a whole, if a consumer has stopped that should run, or if one goes on
        half a minute after it was cancelled, as its lease was lost or its time to drain was over. A consumer that
        fails again and again is no reason: a restart would change nothing.
        """
        if self._failed:
            return False
        if self._began and not self._ending:
            for host in self._hosts.values():
                if host.state is ConsumerState.STOPPED:
                    return False
        return all(host.overdue() <= _OVERDUE for host in self._hosts.values())

    def statuses(self) -> dict[str, ConsumerStatus]:
        """Return what each consumer is doing, by name."""
        return {name: host.status for name, host in self._hosts.items()}

    async def changed(self) -> None:
        """Return when any consumer has begun to do something else."""
        await self._changed.wait()

    @property
    def cut_off(self) -> list[str]:
        """The consumers that were cancelled, as they hadn't finished what they had in hand when time was up."""
        return [name for name, host in self._hosts.items() if host.cut_off]

    # Running.

    async def run(self, *, signals: Iterable[Signals] = ()) -> None:
        """Run the specs until :meth:`drain`, until a signal, or until cancelled; on asyncio or trio.

        :param signals: of these the first drains, and the second ends everything at once. Handlers are
            installed for the time of the call, which so has to be in the main thread
        :raises RuntimeError: if the runner has been used before
        """
        self._begin()
        signals, group = tuple(signals), Group("runner")

        async def heed() -> None:
            with anyio.open_signal_receiver(*signals) as received:
                async for signal in received:
                    if self._ending:
                        logger.warning("%s: ending at once", signal.name)
                        self.interrupted_by = signal
                        raise _Interrupted
                    logger.info("%s: draining for up to %g s", signal.name, self._drain)
                    self.end()

        async def work() -> None:
            if signals:
                group.start(heed)
            await self._serve()

        try:
            await group.run(work)
        except _Interrupted:
            pass

    async def __aenter__(self) -> Self:
        if not on_asyncio():
            raise RuntimeError(
                "a Runner runs in the background on asyncio only: elsewhere, await runner.run()"
            )
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
        """Begin to drain, and return at once."""
        self._ending = True
        self._has_changed()

    async def drain(self) -> None:
        """Take no further event, finish what is in hand, and return when everything has ended.

        What isn't finished in ``drain`` seconds, given to the constructor, is cancelled.
        """
        self.end()
        if self._began:
            await self._done.wait()

    def _begin(self) -> None:
        if self._began:
            raise RuntimeError("a Runner runs once: make another one")
        self._began = True

    async def _serve(self) -> None:
        try:
            await self._group.run(self._run_all if self._leases is None else self._run_share)
        except BaseException as exc:
            self._failed = not isinstance(exc, anyio.get_cancelled_exc_class())
            raise
        finally:
            self._ending = True
            for host in self._hosts.values():
                host.tell(ConsumerState.STOPPED)
            self._done.set()

    async def _run_all(self) -> None:
        for host in self._hosts.values():
            self._start(host, host.run)
        await self._wait_to_end()
        await self._end_all()

    async def _run_share(self) -> None:
        leases = self._leases
        assert leases is not None

        def start(host: Host, lease: Lease, sent: float) -> None:
            async def run() -> None:
                await host.run_under(leases, lease, self._ttl, sent)

            self._start(host, run)

        share = Share(leases, self._hosts, owner=self.owner, ttl=self._ttl, drain=self._drain, start=start)
        self._group.start(share.keep)
        await self._wait_to_end()
        # At once, even if the store of the leases doesn't answer.
        share.end()
        await self._end_all()
        await share.left.wait()

    async def _wait_to_end(self) -> None:
        while not self._ending:
            await self._changed.wait()

    def _start(self, host: Host, run: Callable[[], Awaitable[None]]) -> None:
        host.is_hosted = True
        self._group.start(self._guarded, host, run)

    async def _guarded(self, host: Host, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except Exception as exc:
            # Nothing that a consumer does, but a fault here, or in hooks: the others go on.
            logger.exception("consumer %s can't be run", host.name)
            host.tell(ConsumerState.STOPPED, exc)
        finally:
            host.is_hosted = False
            self._has_changed()

    async def _end_all(self) -> None:
        for host in self._hosts.values():
            host.end(within=self._drain)
        while any(host.is_hosted for host in self._hosts.values()):
            await self._changed.wait()
        if names := self.cut_off:
            logger.warning("not finished within %g s, and cancelled: %s", self._drain, ", ".join(names))

    def _has_changed(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class _Interrupted(Exception):
    """Ends everything at once."""
