"""A spec that a runner hosts."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

import anyio

from reflex_aio.backoff import Backoff
from reflex_aio.errors import LeaseLost
from reflex_aio.health import ConsumerState, ConsumerStatus
from reflex_aio.lease import Lease, LeaseStore
from reflex_aio.runner.lease_keepalive import NotRenewed, keep, release
from reflex_aio.running.run import Run
from reflex_aio.running.supervisor import Rerunning
from reflex_aio.spec import Spec
from reflex_aio.tasks import Group

__all__ = ["Host"]

logger = logging.getLogger(__name__)


class Host:
    """Runs one spec, for as long as it is to run here, and knows what it is doing.

    :param changed: called after each change of what it is doing
    """

    def __init__(self, spec: Spec, *, backoff: Backoff, changed: Callable[[], None]) -> None:
        self.spec = spec
        self.name: str = spec.consumer.name
        self._backoff = backoff
        self._changed = changed
        self._state = ConsumerState.STARTING
        self._since = datetime.now(UTC)
        self._restarts = 0
        self._error = ""
        self._failed_at: datetime | None = None
        self._cursor = ""
        self._lease: Lease | None = None
        self._attempt: Run | None = None
        self._runs: Rerunning | None = None
        self._scope: anyio.CancelScope | None = None
        # When it should have ended, by the monotonic clock.
        self._due: float | None = None
        # Told to end before it began.
        self._ended = False
        self.is_hosted: bool = False
        """Whether it runs here, or is about to, or has not quite ended."""
        self.cut_off: bool = False
        """Whether its last run was cancelled with events in hand, as it didn't finish them in time."""

    def __repr__(self) -> str:
        return f"Host({self.spec!r})"

    @property
    def state(self) -> ConsumerState:
        """What it is doing."""
        return self._state

    @property
    def status(self) -> ConsumerStatus:
        """What it is doing, and more."""
        return ConsumerStatus(
            self.name,
            self._state,
            self._since,
            restarts=self._restarts,
            error=self._error,
            failed_at=self._failed_at,
            cursor=self._reached(),
            epoch=None if self._lease is None else self._lease.epoch,
        )

    def overdue(self) -> float:
        """Return for how many seconds it has been refusing to end, though it was cancelled."""
        return 0.0 if self._due is None else max(0.0, anyio.current_time() - self._due)

    def tell(self, state: ConsumerState, error: BaseException | None = None) -> None:
        """Note what it is doing from now on."""
        if error is not None:
            self._failed_at = datetime.now(UTC)
            self._error = f"{type(error).__name__}: {error}"
        if state is not self._state:
            self._state = state
            self._since = datetime.now(UTC)
        self._changed()

    async def run(self) -> None:
        """Run the spec until it is told to end."""
        await self._run(self.spec)
        self.tell(ConsumerState.STOPPED)

    async def run_under(self, leases: LeaseStore, lease: Lease, ttl: float, sent: float) -> None:
        """Run the spec until it is told to end, or the lease is lost; give the lease back then.

        :param ttl: for how long the lease was acquired, in seconds
        :param sent: :func:`anyio.current_time` before it was acquired
        """
        group = Group(self.name)

        async def hold() -> None:
            try:
                await keep(leases, lease, ttl, sent)
            finally:
                self._due = anyio.current_time()

        async def work() -> None:
            group.start(hold)
            await self._run(self.spec.fenced(lease))

        self._lease = lease
        try:
            await group.run(work)
            self.tell(ConsumerState.STANDBY)
        except LeaseLost as exc:
            # Nothing is wrong with the consumer; another process goes on from its cursor.
            logger.warning("consumer %s stopped: %s", self.name, exc)
            self.cut_off = False
            unknown = isinstance(exc, NotRenewed)
            self.tell(ConsumerState.BACKING_OFF if unknown else ConsumerState.STANDBY, exc)
        finally:
            self._due = None
            await release(leases, lease)
            self._lease, self._ended = None, False

    async def _run(self, spec: Spec) -> None:
        def begin() -> Run:
            self._cursor = self._reached()
            self._attempt = Run(spec, opened=opened, held=held)
            return self._attempt

        def opened() -> None:
            self._report(ConsumerState.RUNNING, None)

        def held(held: bool) -> None:
            self._report(ConsumerState.BACKING_OFF if held else ConsumerState.RUNNING, None)

        runs = self._runs = Rerunning(
            self.name, begin, backoff=self._backoff, hooks=spec.hooks, report=self._report, final=LeaseLost
        )
        finished = False
        try:
            with anyio.CancelScope() as self._scope:
                if self._ended:
                    runs.end()
                await runs.run()
                finished = True
        finally:
            self.cut_off = not finished
            self._cursor = self._reached()
            self._runs = self._attempt = self._scope = self._due = None
            self._ended = False

    def end(self, *, within: float) -> None:
        """Take no further event; what isn't finished ``within`` so many seconds is cancelled."""
        if not self.is_hosted or self._state is ConsumerState.DRAINING:
            return
        if self._runs is None or self._scope is None:
            self._ended = True
            return
        self._due = anyio.current_time() + within
        self.tell(ConsumerState.DRAINING)
        self._scope.deadline = self._due
        self._runs.end()

    def _report(self, state: ConsumerState, error: Exception | None) -> None:
        if error is not None:
            self._restarts += 1
        self.tell(ConsumerState.DRAINING if self._state is ConsumerState.DRAINING else state, error)

    def _reached(self) -> str:
        return (self._attempt.cursor if self._attempt is not None else "") or self._cursor
