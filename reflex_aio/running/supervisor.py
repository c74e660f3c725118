"""Runs a consumer again and again, with a backoff between runs, and classifies the errors of its runs."""

import logging
import math
import random
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import anyio

from reflex_aio.backoff import Backoff, next_answer
from reflex_aio.errors import CursorConflict, ReflexError, TableReplaced, is_expected
from reflex_aio.health import ConsumerState
from reflex_aio.hooks import Hooks
from reflex_aio.running.run import Run
from reflex_aio.spec import Spec
from reflex_aio.tasks import Group, is_cancellation, pending_cancellations

__all__ = ["Report", "Supervisor", "check_endless", "run_forever"]

logger = logging.getLogger(__name__)

_OTHERS = "another process runs the consumer too, which leases would prevent, or its cursor was set by hand"

# A consumer that waits because a service was unreachable goes on when a stream of another consumer opens, as the
# service probably answers again: within this time, so that not all go on at once, in seconds.
_SPREAD = 0.5
# But at most so often, in seconds: the other stream may be of another service, or fail again.
_WAKE_PERIOD = 5.0
# The interval at which the cursor of a blocked consumer is read, in seconds.
_DECISION_INTERVAL = 2.0
# How often a run is asked whether it has passed the event at which the last one failed, in seconds.
_PASSED_INTERVAL = 0.5

# Called with each new state, and the error that led to it.
Report: TypeAlias = Callable[[ConsumerState, Exception | None], None]


async def run_forever(spec: Spec, *, backoff: Backoff | None = None) -> None:
    """Run ``spec`` again and again, whatever its runs raise, until cancelled.

    Errors that belong to normal operation, such as a server's restart, or another process that has moved the cursor,
    are logged at level INFO, or at level WARNING if a time limit was exceeded, or the same event has failed twice; all
    others at level ERROR, with their traceback. A run that moved the cursor past an event that it handled, or lasted
    longer than the longest delay, resets the backoff.

    A :class:`~reflex_aio.errors.TableReplaced` blocks the consumer, since its cursor may now belong to another event:
    it is run again once the stored cursor was set to another value, or removed. Without a stored cursor, it is run
    again at once.

    :param backoff: delays between runs; by default 0.1 to 30 seconds
    :raises ValueError: if the spec ends at the head
    """
    check_endless(spec)
    backoff = Backoff() if backoff is None else backoff
    await Supervisor(spec.consumer.name, lambda: Run(spec), backoff=backoff, hooks=spec.hooks).run()


def check_endless(spec: Spec) -> None:
    """Check that ``spec`` can be run again and again.

    :raises ValueError: if it ends at the head
    """
    if spec.options.to_head:
        raise ValueError(f"{spec.consumer.name}: a spec with to_head=True ends: await run(spec)")


class Supervisor:
    """Runs a consumer again and again, whatever its runs raise. For logging and backoff see :func:`run_forever`.

    A :class:`~reflex_aio.errors.CursorConflict` is expected, since another process may have moved the cursor. It is
    unexpected if the cursor is where it was at the previous conflict: then no other process moves it.

    :param name: the consumer
    :param begin: returns a new run
    :param backoff: delays between runs
    :param hooks: called at each restart
    :param report: called at each change of state
    :param passed: called when :attr:`retrying` has become false, as the event is handled
    :param final: the errors that :meth:`run` raises
    """

    def __init__(
        self,
        name: str,
        begin: Callable[[], Run],
        *,
        backoff: Backoff,
        hooks: Hooks,
        report: Report = lambda state, error: None,
        passed: Callable[[], None] = lambda: None,
        final: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> None:
        self._name = name
        self._begin = begin
        self._backoff = backoff
        self._hooks = hooks
        self._report = report
        self._passed = passed
        self._final = final
        self._run: Run | None = None
        self._group: Group | None = None
        self._waiting: anyio.CancelScope | None = None
        self._ending = False
        self._woken_at = -math.inf
        # The stored cursor at the last conflict.
        self._conflict: str | None = None
        # True from a failure at an event until the cursor has moved past it.
        self._failed_at_event = False
        self.unfinished: bool = False
        """True if the last run was cancelled with events in hand, since it did not end in time."""

    @property
    def retrying(self) -> bool:
        """True while the run is at the event at which the last one failed."""
        run = self._run
        return self._failed_at_event and run is not None and run.busy and not run.has_advanced

    async def run(self) -> None:
        """Run until cancelled, or until :meth:`end` is called.

        :raises Exception: the errors that are ``final``
        """
        delays = self._backoff.delays()
        while True:
            began = anyio.current_time()
            run = self._run = self._begin()
            error = await self._run_once(run)
            if error is None:
                return
            if self._ending:
                logger.error(
                    "consumer %s failed while it drained",
                    self._name,
                    exc_info=error,
                    extra={"consumer": self._name},
                )
                self._report(ConsumerState.DRAINING, error)
                return
            if run.advanced or anyio.current_time() - began > self._backoff.maximum:
                delays = self._backoff.delays()
            if isinstance(error, TableReplaced):
                await self._wait_for_cursor(run, error)
            else:
                await self._back_off(run, next(delays), error)

    def end(self, *, timeout: float | None = None) -> None:
        """Receive no more events. :meth:`run` returns when those in hand are finished, and the cursor is stored.

        :param timeout: the time after which a run that has not ended is cancelled, in seconds; ``None`` for never
        """
        self._ending = True
        if self._group is not None:
            if self._run is None or not self._run.end():
                self._group.cancel()
            elif timeout is not None:
                self._group.start(self._cancel_after, timeout)
        elif self._waiting is not None:
            self._waiting.cancel()

    async def _cancel_after(self, timeout: float) -> None:
        await anyio.sleep(timeout)
        if self._group is not None:
            self.unfinished = True
            self._group.cancel()

    async def _run_once(self, run: Run) -> Exception | None:
        """Return the error that ended the run, or ``None`` if :meth:`end` ended it."""
        if self._ending:
            return None
        self._report(ConsumerState.STARTING, None)
        pending_before = pending_cancellations()
        self._group = Group(self._name, not_ended=self._not_ended)
        try:
            await self._group.run(run.run if not self._failed_at_event else partial(self._retry, run))
            return None
        except self._final:
            raise
        except Exception as exc:
            if pending_cancellations() > pending_before:
                # An error during clean-up has replaced a cancellation: to go on would swallow the cancellation.
                raise
            return exc
        except anyio.get_cancelled_exc_class() as exc:
            if is_cancellation(exc, pending_before=pending_before):
                raise
            error = ReflexError(f"{self._name}: cancelled by something below the handler or the source")
            error.__cause__ = exc
            return error
        finally:
            self._run = self._group = None

    async def _retry(self, run: Run) -> None:
        """Do the run, and report when it has passed the event at which the last one failed."""
        assert self._group is not None
        self._group.start(self._report_passing, run)
        await run.run()

    async def _report_passing(self, run: Run) -> None:
        # Polled, as the loop of the run takes up to a million turns a second, and should not report each.
        while not run.has_advanced:  # noqa: ASYNC110
            await anyio.sleep(_PASSED_INTERVAL)
        self._failed_at_event = False
        self._passed()

    def _not_ended(self) -> None:
        event_id = "" if self._run is None else self._run.in_hand
        if event_id:
            logger.error(
                "consumer %s: the handler of event %s was cancelled, and goes on: it must not catch CancelledError"
                " without raising it again",
                self._name,
                event_id,
                extra={"consumer": self._name, "event_id": event_id},
            )

    async def _back_off(self, run: Run, delay: float, error: Exception) -> None:
        before, self._failed_at_event = self._failed_at_event, run.failed_at_event
        standing = before and run.failed_at_event and not run.advanced
        moved_by_others = self._is_moved_by_others(error)
        expected = moved_by_others or is_expected(error)
        extra = {"consumer": self._name}
        if moved_by_others:
            logger.info(
                "consumer %s: %s (%s); restarting in %.1f s", self._name, error, _OTHERS, delay, extra=extra
            )
        elif expected:
            # A server that restarts is no reason to warn; a consumer that does not get on is.
            timed_out = isinstance(error.__cause__, TimeoutError)
            level = logging.WARNING if standing or timed_out else logging.INFO
            logger.log(level, "consumer %s: %s; restarting in %.1f s", self._name, error, delay, extra=extra)
        else:
            logger.error(
                "consumer %s failed; restarting in %.1f s", self._name, delay, exc_info=error, extra=extra
            )
        self._hooks.consumer_restarting(self._name, error, expected=expected, delay=delay)
        self._report(ConsumerState.BACKING_OFF, error)
        with anyio.move_on_after(delay) as self._waiting:
            if is_expected(error):
                await self._wait_for_answers()
            await anyio.sleep_forever()
        self._waiting = None

    async def _wait_for_answers(self) -> None:
        """Wait until a stream of another consumer opens, and end the wait then."""
        await next_answer()
        rest = self._woken_at + _WAKE_PERIOD - anyio.current_time()
        await anyio.sleep(max(rest, random.uniform(0, _SPREAD)))
        self._woken_at = anyio.current_time()
        if self._waiting is not None:
            self._waiting.cancel()

    async def _wait_for_cursor(self, run: Run, error: TableReplaced) -> None:
        """Wait until the stored cursor has changed. To go on from it would skip events of the new table in silence."""
        logger.error(
            "consumer %s is blocked until its cursor is set: the stored one may belong to another event",
            self._name,
            exc_info=error,
            extra={"consumer": self._name},
        )
        self._report(ConsumerState.BLOCKED, error)
        before: str | None = None
        with anyio.CancelScope() as self._waiting:
            while True:
                try:
                    stored = await run.stored_cursor()
                except Exception as exc:
                    logger.log(
                        logging.DEBUG if is_expected(exc) else logging.WARNING,
                        "consumer %s: could not read its cursor: %s",
                        self._name,
                        exc,
                        extra={"consumer": self._name},
                    )
                else:
                    if not stored or (before is not None and stored != before):
                        break
                    before = stored
                await anyio.sleep(_DECISION_INTERVAL)
        self._waiting = None

    def _is_moved_by_others(self, error: Exception) -> bool:
        """Return whether ``error`` is a conflict because another process has moved the cursor."""
        if not isinstance(error, CursorConflict):
            return False
        before, self._conflict = self._conflict, error.stored
        return error.stored != before
