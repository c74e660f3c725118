"""Runs of one consumer, one after another."""

import logging
from collections.abc import Callable
from typing import Protocol, TypeAlias

import anyio

from reflex_aio.backoff import Backoff
from reflex_aio.errors import CursorConflict, ReflexError, is_expected
from reflex_aio.health import ConsumerState
from reflex_aio.hooks import Hooks
from reflex_aio.tasks import is_cancellation, pending_cancellations

__all__ = ["Attempt", "Report", "Rerunning"]

logger = logging.getLogger(__name__)

_OTHERS = "another process runs it too, which leases would prevent, or its cursor was set by hand"

# Told of each change: the new state, and the error that led to it.
Report: TypeAlias = Callable[[ConsumerState, Exception | None], None]


class Attempt(Protocol):
    """One run of a consumer."""

    @property
    def moved(self) -> bool:
        """Whether the cursor moved past an event that was handled."""
        ...

    async def run(self) -> None:
        """Run until something is raised, or until told to end."""
        ...

    def end(self) -> bool:
        """Take no further event and finish those in hand; tell whether there can be any, as the stream is open."""
        ...


class Rerunning:
    """Runs a consumer again and again, whatever its runs raise.

    Errors that belong to normal operation, such as a server's restart, are logged as information; all others
    with their stack, as errors. That somebody else has moved the cursor is information too, unless it is where it
    was at the last such conflict: then nobody has, and something is wrong. A run that moved the cursor past an event
    that it handled, or held out for longer than the longest delay, begins the backoff anew.

    :param name: the consumer
    :param begin: makes a run
    :param backoff: how long to wait between runs
    :param hooks: told of each restart
    :param report: told of each change
    :param final: which errors are raised instead
    """

    def __init__(
        self,
        name: str,
        begin: Callable[[], Attempt],
        *,
        backoff: Backoff,
        hooks: Hooks,
        report: Report = lambda state, error: None,
        final: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> None:
        self._name = name
        self._begin = begin
        self._backoff = backoff
        self._hooks = hooks
        self._report = report
        self._final = final
        self._attempt: Attempt | None = None
        self._scope: anyio.CancelScope | None = None
        self._ending = False
        # Where the cursor was at the last conflict.
        self._conflict: str | None = None

    async def run(self) -> None:
        """Run until cancelled, or until told to end.

        :raises Exception: what is ``final``
        """
        delays = self._backoff.delays()
        while True:
            began = anyio.current_time()
            attempt = self._attempt = self._begin()
            error = await self._try(attempt)
            if error is None:
                return
            if self._ending:
                logger.error("consumer %s failed while it was ending", self._name, exc_info=error)
                self._report(ConsumerState.DRAINING, error)
                return
            if attempt.moved or anyio.current_time() - began > self._backoff.maximum:
                delays = self._backoff.delays()
            await self._wait(next(delays), error)

    def end(self) -> None:
        """Take no further event; :meth:`run` returns when those in hand are finished, and the cursor is stored."""
        self._ending = True
        if self._scope is not None and not (self._attempt is not None and self._attempt.end()):
            self._scope.cancel()

    async def _try(self, attempt: Attempt) -> Exception | None:
        """Return what the run raised, or None if it was told to end."""
        pending_before = pending_cancellations()
        try:
            with anyio.CancelScope() as self._scope:
                if not self._ending:
                    self._report(ConsumerState.STARTING, None)
                    await attempt.run()
            return None
        except self._final:
            raise
        except Exception as exc:
            if pending_cancellations() > pending_before:
                # A failed clean-up has taken the place of a cancellation: to go on would be to swallow it.
                raise
            return exc
        except anyio.get_cancelled_exc_class() as exc:
            if is_cancellation(exc, pending_before=pending_before):
                raise
            error = ReflexError(f"{self._name}: cancelled by something below the handler or the source")
            error.__cause__ = exc
            return error
        finally:
            self._attempt = None

    async def _wait(self, delay: float, error: Exception) -> None:
        moved_by_others = self._is_moved_by_others(error)
        expected = moved_by_others or is_expected(error)
        if moved_by_others:
            logger.info("consumer %s: %s (%s); running again in %.1f s", self._name, error, _OTHERS, delay)
        elif expected:
            logger.info("consumer %s: %s; running again in %.1f s", self._name, error, delay)
        else:
            logger.error("consumer %s failed; running again in %.1f s", self._name, delay, exc_info=error)
        self._hooks.consumer_restarting(self._name, error, expected=expected, delay=delay)
        self._report(ConsumerState.BACKING_OFF, error)
        with anyio.CancelScope() as self._scope:
            await anyio.sleep(delay)

    def _is_moved_by_others(self, error: Exception) -> bool:
        """Tell whether ``error`` is the conflict of a run under which somebody else has moved the cursor."""
        if not isinstance(error, CursorConflict):
            return False
        before, self._conflict = self._conflict, error.stored
        return error.stored != before
