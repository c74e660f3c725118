"""A spec of a runner: its supervisor, its lease, and its state."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

import anyio

from reflex_aio.backoff import Backoff
from reflex_aio.errors import LeaseLost
from reflex_aio.health import ConsumerState, ConsumerStatus
from reflex_aio.lease import Lease
from reflex_aio.runner.lease_keepalive import KeptLease, NotRenewed
from reflex_aio.running.run import Run
from reflex_aio.running.supervisor import Supervisor
from reflex_aio.spec import Spec
from reflex_aio.tasks import Group

__all__ = ["SupervisedSpec"]

logger = logging.getLogger(__name__)


class SupervisedSpec:
    """A spec that a runner runs, and its state.

    :param changed: called after each change of state
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
        self._run: Run | None = None
        self._supervisor: Supervisor | None = None
        # When it must have ended, by the monotonic clock.
        self._deadline: float | None = None
        # Set if it was ended before its supervisor was started.
        self._ended = False
        self.is_active: bool = False
        """True if it runs here, is about to start, or has not ended completely."""
        self.unfinished: bool = False
        """True if its last run was cancelled with events in hand, since it did not drain in time."""

    def __repr__(self) -> str:
        return f"SupervisedSpec({self.spec!r})"

    @property
    def state(self) -> ConsumerState:
        """Its state."""
        if (
            self._state is ConsumerState.RUNNING
            and self._supervisor is not None
            and self._supervisor.retrying
        ):
            return ConsumerState.BACKING_OFF
        return self._state

    @property
    def status(self) -> ConsumerStatus:
        """Its state, with details."""
        return ConsumerStatus(
            self.name,
            self.state,
            self._since,
            restarts=self._restarts,
            error=self._error,
            failed_at=self._failed_at,
            cursor=self._current_cursor(),
            epoch=None if self._lease is None else self._lease.epoch,
        )

    def overdue(self) -> float:
        """Return the time since it should have ended, in seconds; 0 if it need not have ended."""
        return 0.0 if self._deadline is None else max(0.0, anyio.current_time() - self._deadline)

    def set_state(self, state: ConsumerState, error: BaseException | None = None) -> None:
        """Record a new state, and the error that led to it."""
        if error is not None:
            self._failed_at = datetime.now(UTC)
            self._error = f"{type(error).__name__}: {error}"
        if state is not self._state:
            self._state = state
            self._since = datetime.now(UTC)
        self._changed()

    async def run(self) -> None:
        """Run the spec until :meth:`end` is called."""
        await self._supervise(self.spec)
        self.set_state(ConsumerState.STOPPED)

    async def run_under(self, kept: KeptLease) -> None:
        """Run the spec until :meth:`end` is called or the lease is lost. Release the lease at the end."""
        group, lease = Group(self.name), kept.lease

        async def watch_lease() -> None:
            try:
                await kept.lost()
            finally:
                self._deadline = anyio.current_time()

        async def work() -> None:
            group.start(watch_lease)
            await self._supervise(self.spec.fenced(lease))

        self._lease = lease
        try:
            await group.run(work)
            self.set_state(ConsumerState.STANDBY)
        except LeaseLost as exc:
            # The consumer has not failed: another process continues from its cursor.
            logger.warning("consumer %s stopped: %s", self.name, exc, extra={"consumer": self.name})
            self.unfinished = False
            unknown = isinstance(exc, NotRenewed)
            self.set_state(ConsumerState.BACKING_OFF if unknown else ConsumerState.STANDBY, exc)
        finally:
            self._deadline = None
            await kept.release()
            self._lease, self._ended = None, False

    async def _supervise(self, spec: Spec) -> None:
        def begin() -> Run:
            self._cursor = self._current_cursor()
            self._run = Run(spec, opened=opened, delayed=delayed)
            return self._run

        def opened() -> None:
            self._report(ConsumerState.RUNNING, None)

        def delayed(delayed: bool) -> None:
            self._report(ConsumerState.BACKING_OFF if delayed else ConsumerState.RUNNING, None)

        supervisor = self._supervisor = Supervisor(
            self.name,
            begin,
            backoff=self._backoff,
            hooks=spec.hooks,
            report=self._report,
            passed=self._changed,
            final=LeaseLost,
        )
        self.unfinished = True
        try:
            if self._ended:
                supervisor.end(timeout=0)
            await supervisor.run()
            self.unfinished = supervisor.unfinished
        finally:
            self._cursor = self._current_cursor()
            self._supervisor = self._run = self._deadline = None
            self._ended = False

    def end(self, *, timeout: float) -> None:
        """Receive no more events. A run that has not drained after ``timeout`` seconds is cancelled."""
        if not self.is_active or self._state is ConsumerState.DRAINING:
            return
        if self._supervisor is None:
            self._ended = True
            return
        self._deadline = anyio.current_time() + timeout
        self.set_state(ConsumerState.DRAINING)
        self._supervisor.end(timeout=timeout)

    def _report(self, state: ConsumerState, error: Exception | None) -> None:
        if error is not None:
            self._restarts += 1
        self.set_state(ConsumerState.DRAINING if self._state is ConsumerState.DRAINING else state, error)

    def _current_cursor(self) -> str:
        return (self._run.cursor if self._run is not None else "") or self._cursor
