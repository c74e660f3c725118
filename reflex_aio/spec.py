"""Specs, and running them: what is consumed, by whom, and where the cursor is kept."""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio

from reflex_aio.backoff import Backoff
from reflex_aio.consumer import Consumer
from reflex_aio.cursor import CursorStore
from reflex_aio.errors import is_expected
from reflex_aio.event import Event
from reflex_aio.hooks import Hooks, installed
from reflex_aio.stream import EventStream, Source, StreamOptions

__all__ = ["Spec", "run", "run_forever"]

logger = logging.getLogger(__name__)

# How long run() may take to store the last cursors when it is cancelled, in seconds.
_FLUSH_TIMEOUT = 10.0
# How often the cursor moves over events that the filters pass over, in seconds.
_PASS_OVER_PERIOD = 1.0


class Spec:
    """What to consume (``source``), who consumes it (``consumer``), and where its cursor is kept (``store``).

    :param from_head: each run starts after the head, whatever the stored cursor
    :param to_head: a run ends after the head
    :param lag: hand over an event once it is this old, in seconds, by this process's clock
    :param hooks: told what happens; by default those installed for the process
    :param clock: tells the time, in seconds since 1970
    :raises TypeError: if an argument isn't what its name says
    :raises ValueError: if ``lag`` is out of its range
    """

    def __init__(
        self,
        source: Source,
        store: CursorStore,
        consumer: Consumer,
        *,
        from_head: bool = False,
        to_head: bool = False,
        lag: float | None = None,
        hooks: Hooks | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(source, Source):
            raise TypeError(
                f"source {source!r} is a {type(source).__name__}: accepted is a Source, such as events.source(pool)"
            )
        if not isinstance(store, CursorStore):
            raise TypeError(
                f"store {store!r} is a {type(store).__name__}: accepted is a CursorStore, such as cursors.store(pool)"
            )
        if not isinstance(consumer, Consumer):
            raise TypeError(f"consumer {consumer!r} is a {type(consumer).__name__}: accepted is a Consumer")
        self.source = source
        self.store = store
        self.consumer = consumer
        self.options = StreamOptions(from_head, to_head, lag)
        self.hooks = installed() if hooks is None else hooks
        self.clock = clock

    def __repr__(self) -> str:
        return f"Spec({self.source!r}, {self.store!r}, {self.consumer!r})"


async def run(spec: Spec) -> None:
    """Consume events from where the consumer's cursor stands; return after the head if the spec ends there.

    The cursor is set after the handler has returned, so that whatever ends the run, the next one begins with the first
    event that wasn't finished. Before this returns or raises, the cursor store is flushed.

    :raises Exception: whatever the handler, the source or the cursor store raises
    """
    await _Run(spec).run()


async def run_forever(spec: Spec, *, backoff: Backoff | None = None) -> None:
    """Run ``spec`` again and again, whatever it raises, until cancelled.

    Errors that belong to normal operation, such as a server that restarts, are logged as information; all others with
    their stack, as errors. A run that finished an event, or held out for longer than the longest delay, begins the
    backoff anew.

    :param backoff: how long to wait between runs; by default 0.1 to 30 seconds
    :raises ValueError: if the spec ends at the head
    """
    if spec.options.to_head:
        raise ValueError(f"{spec.consumer.name}: a spec with to_head=True ends: await run(spec)")
    backoff = Backoff() if backoff is None else backoff
    name = spec.consumer.name
    delays = backoff.delays()
    while True:
        attempt, began = _Run(spec), time.monotonic()
        try:
            await attempt.run()
        except Exception as exc:
            if attempt.finished or time.monotonic() - began > backoff.maximum:
                delays = backoff.delays()
            delay, expected = next(delays), is_expected(exc)
            if expected:
                logger.info("consumer %s: %s; running again in %.1f s", name, exc, delay)
            else:
                logger.exception("consumer %s failed; running again in %.1f s", name, delay)
            spec.hooks.consumer_restarting(name, exc, expected=expected, delay=delay)
            await anyio.sleep(delay)


class _Run:
    """One run of a spec."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._consumer = spec.consumer
        self._store = spec.store
        self._hooks = spec.hooks
        self.finished = 0

    async def run(self) -> None:
        name, hooks = self._consumer.name, self._hooks
        hooks.consumer_started(name)
        error: BaseException | None = None
        try:
            async with (
                _entered(self._store),
                _flushed(self._store),
                _entered(self._consumer),
                self._stream(await self._store.get(name)) as stream,
            ):
                if self._consumer.filters:
                    await self._consume_filtered(stream)
                else:
                    await self._consume(stream)
        except BaseException as exc:
            error = exc
            raise
        finally:
            hooks.consumer_stopped(name, error)

    def _stream(self, after: str) -> EventStream:
        options = self._spec.options
        # The lag is kept here, at the consumer; the source has to know it only to tell the head.
        lag = options.lag if options.from_head or options.to_head else None
        return self._spec.source.stream(after, from_head=options.from_head, to_head=options.to_head, lag=lag)

    async def _consume(self, stream: EventStream) -> None:
        name, store = self._consumer.name, self._store
        async for event in stream:
            await self._handle(event)
            await store.set(name, event.id)

    async def _consume_filtered(self, stream: EventStream) -> None:
        consumer, hooks = self._consumer, self._hooks
        cursor = _CoalescedCursor(self._store, consumer.name)

        async def consume() -> None:
            async for event in stream:
                try:
                    wanted = consumer.wants(event)
                except Exception as exc:
                    hooks.event_failed(consumer.name, event, exc, 0.0)
                    raise
                if wanted:
                    await self._handle(event)
                    await cursor.set(event.id)
                else:
                    hooks.event_skipped(consumer.name, event)
                    cursor.pass_over(event.id)

        await cursor.keep_moving_during(consume)

    async def _handle(self, event: Event) -> None:
        hooks, consumer = self._hooks, self._consumer
        if self._spec.options.lag:
            await _until(event.timestamp_us / 1_000_000 + self._spec.options.lag, self._spec.clock)
        hooks.event_received(consumer.name, event)
        began = time.perf_counter()
        try:
            await consumer.consume(event)
        except Exception as exc:
            hooks.event_failed(consumer.name, event, exc, time.perf_counter() - began)
            raise
        hooks.event_handled(consumer.name, event, time.perf_counter() - began)
        self.finished += 1


class _CoalescedCursor:
    """A consumer's cursor that moves over events passed over too, but for these at most once in a period."""

    def __init__(self, store: CursorStore, name: str) -> None:
        self._store = store
        self._name = name
        self._passed = ""
        self._moving: anyio.Event | None = None
        self._error: Exception | None = None

    async def set(self, event_id: str) -> None:
        """Move the cursor now."""
        self._passed = ""
        if self._moving is not None:
            # Two sets at once could reach the store in the wrong order.
            await self._moving.wait()
        await self._store.set(self._name, event_id)

    def pass_over(self, event_id: str) -> None:
        """Move the cursor before long."""
        self._passed = event_id

    async def keep_moving_during(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work`` and move the cursor over what it passes over."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_moving, group.cancel_scope)
            try:
                await work()
            except Exception as exc:
                # Raised below, as the group would wrap it.
                self._error = self._error or exc
            group.cancel_scope.cancel()
        try:
            await self._move()
        except Exception as exc:
            self._error = self._error or exc
        if self._error is not None:
            raise self._error

    async def _keep_moving(self, scope: anyio.CancelScope) -> None:
        try:
            while True:
                await anyio.sleep(_PASS_OVER_PERIOD)
                await self._move()
        except Exception as exc:
            self._error = self._error or exc
            scope.cancel()

    async def _move(self) -> None:
        if not self._passed:
            return
        passed, self._passed, self._moving = self._passed, "", anyio.Event()
        try:
            await self._store.set(self._name, passed)
        finally:
            self._moving.set()
            self._moving = None


async def _until(when: float, clock: Callable[[], float]) -> None:
    """Sleep until ``when``, in seconds since 1970."""
    if (delay := when - clock()) > 0:
        await anyio.sleep(delay)


@asynccontextmanager
async def _entered(resource: object) -> AsyncIterator[None]:
    if isinstance(resource, AbstractAsyncContextManager):
        async with resource:
            yield
    else:
        yield


@asynccontextmanager
async def _flushed(store: CursorStore) -> AsyncIterator[None]:
    """Flush the store at the end, also when cancelled, within bounds."""
    try:
        yield
    except BaseException:
        try:
            with anyio.move_on_after(_FLUSH_TIMEOUT, shield=True):
                await store.flush()
        except Exception:
            # The first error is the one to raise; the events after the stored cursor will come again.
            logger.exception("cursors could not be stored")
        raise
    with anyio.fail_after(_FLUSH_TIMEOUT, shield=True):
        await store.flush()
