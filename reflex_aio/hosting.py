"""A spec that a runner hosts."""

from collections.abc import Callable
from datetime import UTC, datetime

import anyio

from reflex_aio.backoff import Backoff
from reflex_aio.consumer_status import ConsumerState, ConsumerStatus
from reflex_aio.rerunning import Rerunning
from reflex_aio.spec import Run, Spec

__all__ = ["Host"]


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

    async def _run(self, spec: Spec) -> None:
        def begin() -> Run:
            self._cursor = self._reached()
            self._attempt = Run(spec, opened=opened)
            return self._attempt

        def opened() -> None:
            self._report(ConsumerState.RUNNING, None)

        runs = self._runs = Rerunning(
            self.name, begin, backoff=self._backoff, hooks=spec.hooks, report=self._report
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
