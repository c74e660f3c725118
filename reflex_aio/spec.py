"""Specs, and running them: what is consumed, by whom, and where the cursor is kept."""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import copy
from typing import Any

import anyio

from reflex_aio.attempting import Attempting
from reflex_aio.attempts import AttemptStore
from reflex_aio.backoff import Backoff
from reflex_aio.consumer import BaseConsumer, Handler
from reflex_aio.cursor import CursorStore
from reflex_aio.delivery import Delivery, NotDue
from reflex_aio.errors import LeaseLost, StreamStopped
from reflex_aio.event import Event
from reflex_aio.fenced import FencedStore
from reflex_aio.group import Group
from reflex_aio.hooks import Hooks, installed
from reflex_aio.lease import Lease
from reflex_aio.marking import CursorMark, marking
from reflex_aio.moving import MovingCursor
from reflex_aio.rerunning import Rerunning
from reflex_aio.session import SessionConsumer, Turn
from reflex_aio.stream import EventStream, Source, StreamOptions
from reflex_aio.tasks import shielded

# For Runner too, which isn't told to users: Run, check_endless.
__all__ = ["Spec", "run", "run_forever"]

logger = logging.getLogger(__name__)

# How long run() may take in the end to store the cursor, and how long to flush the store, in seconds.
_STORE_TIMEOUT = 10.0


class Spec:
    """What to consume (``source``), who consumes it (``consumer``), and where its cursor is kept (``store``).

    :param from_head: each run starts after the head, whatever the stored cursor
    :param to_head: a run ends after the head
    :param lag: hand over an event once it is this old, in seconds, by this process's clock
    :param attempts: where failed attempts are kept: an event on which the handler failed is tried again no sooner
        than its backoff says, and the attempts at it count on, in whatever process it runs next. ``None``: nowhere
    :param retry_backoff: how long to wait after each failed attempt, where attempts are kept; by default 0.1 to 30
        seconds
    :param hooks: told what happens; by default those installed for the process
    :param clock: tells the time, in seconds since 1970
    :raises TypeError: if an argument isn't what its name says
    :raises ValueError: if ``lag`` is out of its range, or there is a ``retry_backoff`` without ``attempts``
    """

    def __init__(
        self,
        source: Source,
        store: CursorStore,
        consumer: BaseConsumer[Any],
        *,
        from_head: bool = False,
        to_head: bool = False,
        lag: float | None = None,
        attempts: AttemptStore | None = None,
        retry_backoff: Backoff | None = None,
        hooks: Hooks | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(source, Source):
            raise _wrong("source", source, "a Source, such as events.source(pool)")
        if not isinstance(store, CursorStore):
            raise _wrong("store", store, "a CursorStore, such as cursors.store(pool)")
        if not isinstance(consumer, BaseConsumer):
            raise _wrong("consumer", consumer, "a Consumer")
        if not isinstance(attempts, AttemptStore | None):
            raise _wrong("attempts", attempts, "an AttemptStore, such as attempts.store(pool), or None")
        if not isinstance(retry_backoff, Backoff | None):
            raise _wrong("retry_backoff", retry_backoff, "a Backoff, or None")
        if attempts is None and retry_backoff is not None:
            raise ValueError(
                f"retry_backoff {retry_backoff} without attempts: run_forever(spec, backoff=...) is without them"
            )
        self.source = source
        self.store = store
        self.consumer = consumer
        self.options: StreamOptions = StreamOptions(from_head, to_head, lag)
        self.attempts = attempts
        self.retry_backoff: Backoff = Backoff() if retry_backoff is None else retry_backoff
        self.hooks: Hooks = installed() if hooks is None else hooks
        self.clock = clock

    def fenced(self, lease: Lease) -> "Spec":
        """Return this spec as it runs under ``lease``: a run that has lost it can't move the cursor, and raises.

        The lease has to be one that the spec's cursor store can compare, as :class:`~reflex_aio.cursor.CursorStore`
        says. Who renews it, and ends the run when that fails, is the caller.
        """
        if not isinstance(lease, Lease):
            raise _wrong("lease", lease, "a Lease, such as await leases.store(pool).acquire(...)")
        spec = copy(self)
        spec.store = FencedStore(self.store, lease)
        return spec

    def __repr__(self) -> str:
        return f"Spec({self.source!r}, {self.store!r}, {self.consumer!r})"


async def run(spec: Spec) -> None:
    """Consume events from where the consumer's cursor stands; return after the head if the spec ends there.

    The cursor is set after the handler has returned, so that whatever ends the run, the next one begins with
    the first event that wasn't finished. Before this returns or raises, the cursor store is flushed. A consumer
    of :mod:`reflex_aio.patterns` may move its cursor in another way, but never past an unfinished event.

    :raises StreamStopped: if the source ended the stream
    :raises Exception: whatever the handler, the source or the cursor store raises
    """
    await Run(spec).run()


async def run_forever(spec: Spec, *, backoff: Backoff | None = None) -> None:
    """Run ``spec`` again and again, whatever it raises, until cancelled.

    Errors that belong to normal operation, such as a server's restart, or another process that has moved the
    cursor, are logged as information; all others with their stack, as errors. A run that moved the cursor past an
    event that it handled, or held out for longer than the longest delay, begins the backoff anew.

    :param backoff: how long to wait between runs; by default 0.1 to 30 seconds
    :raises ValueError: if the spec ends at the head
    """
    check_endless(spec)
    backoff = Backoff() if backoff is None else backoff
    await Rerunning(spec.consumer.name, lambda: Run(spec), backoff=backoff, hooks=spec.hooks).run()


def check_endless(spec: Spec) -> None:
    """Check that ``spec`` can be run for ever.

    :raises ValueError: if it ends at the head
    """
    if spec.options.to_head:
        raise ValueError(f"{spec.consumer.name}: a spec with to_head=True ends: await run(spec)")


class Run:
    """One run of a spec.

    :param opened: called when the stream is open
    :param held: called before and after an event is waited for whose next attempt isn't due, with whether it is
    """

    def __init__(
        self,
        spec: Spec,
        *,
        opened: Callable[[], None] = lambda: None,
        held: Callable[[bool], None] = lambda held: None,
    ) -> None:
        self._spec = spec
        self._consumer = spec.consumer
        self._store = spec.store
        self._hooks = spec.hooks
        self._opened = opened
        self._stream: EventStream | None = None
        self._ending = False
        self._moving: MovingCursor | None = None
        self._mark: CursorMark | None = None
        self._attempting: Attempting | None = None
        if spec.attempts is not None:
            self._attempting = Attempting(spec.consumer, spec.attempts, spec.retry_backoff)
        self._delivery = Delivery(
            spec.consumer,
            spec.hooks,
            lag=spec.options.lag,
            clock=spec.clock,
            attempting=self._attempting,
            held=held,
        )
        self._began = ""
        self.moved = False

    @property
    def cursor(self) -> str:
        """Where the run has moved the cursor to; ``""`` if it hasn't yet."""
        if self._mark is not None:
            return self._mark.cursor
        return "" if self._moving is None else self._moving.stored

    def end(self) -> bool:
        """Take no further event and finish those in hand; tell whether there can be any, as the stream is open."""
        self._ending = True
        self._delivery.end()
        if self._stream is None:
            return False
        self._stream.end()
        return True

    async def run(self) -> None:
        consumer, hooks = self._consumer, self._hooks
        hooks.consumer_started(
            consumer.name, lag_alert=consumer.lag_alert, activity_ttl=consumer.activity_ttl
        )
        error: BaseException | None = None
        try:
            async with (
                self._attempts_written(),
                _entered(self._store),
                self._flushed(),
                _entered(consumer),
                self._source_stream(await self._store.get(consumer.name)) as stream,
            ):
                self._stream = stream
                if self._attempting is not None:
                    await self._attempting.begin(self._began)
                self._opened()
                # Not contextlib.suppress, which raises exception groups as new ones.
                try:
                    if isinstance(consumer, SessionConsumer):
                        await self._consume_in_session(consumer, stream)
                    else:
                        await self._consume(stream)
                except NotDue:
                    pass
            if not (self._spec.options.to_head or self._ending):
                raise StreamStopped
        except BaseException as exc:
            error = exc
            raise
        finally:
            hooks.consumer_stopped(consumer.name, error)

    def _source_stream(self, after: str) -> EventStream:
        self._began, options = after, self._spec.options
        # The lag is kept here, at the consumer; the source has to know it only to tell the head.
        lag = options.lag if options.from_head or options.to_head else None
        return self._spec.source.stream(after, from_head=options.from_head, to_head=options.to_head, lag=lag)

    def _handler(self) -> Handler:
        """Return what is done with an event that the filters let through."""
        return self._consumer.plain_handler if self._delivery.is_plain else self._delivery.deliver

    async def _consume(self, stream: EventStream) -> None:
        with marking(self._store, self._consumer.name) as mark:
            if mark is None:
                await self._consume_setting(stream)
            else:
                await self._consume_marking(stream, mark)

    async def _consume_marking(self, stream: EventStream, mark: CursorMark) -> None:
        """Let the store look where the cursor is. What is done here for an event is done a million times a second."""
        self._mark, handle, all_wanted = mark, self._handler(), not self._consumer.filters
        while page := await stream.read_page():
            for event in page:
                if self._ending:
                    return
                if wanted := all_wanted or self._wanted(event):
                    await handle(event)
                if mark.refused:
                    await self._store.set(self._consumer.name, event.id)
                mark.cursor = event.id
                if wanted:
                    self.moved = True

    async def _consume_setting(self, stream: EventStream) -> None:
        """Set the cursor after each event."""
        cursor = self._moving = MovingCursor(self._store, self._consumer.name)
        handle, all_wanted = self._handler(), not self._consumer.filters

        async def consume() -> None:
            while page := await stream.read_page():
                for event in page:
                    if self._ending:
                        return
                    if all_wanted or self._wanted(event):
                        await handle(event)
                        await cursor.set(event.id)
                        self.moved = True
                    else:
                        cursor.pass_over(event.id)

        if all_wanted:
            await consume()
        else:
            await self._while_moving(cursor, Group(self._consumer.name), consume)

    async def _consume_in_session(self, consumer: SessionConsumer[Any], stream: EventStream) -> None:
        expected = self._began if consumer.compares else None
        cursor = MovingCursor(self._store, consumer.name, expected=expected)
        group = Group(consumer.name)

        async def handle(item: Any, events: Sequence[Event]) -> None:
            if await self._delivery.handle(item, events) and self._attempting is not None:
                # Not here: a transaction may be open, and its connection the pool's last one.
                group.start(self._attempting.forget_handled)

        turn = Turn(cursor, group, handle)

        async def consume() -> None:
            session, filters = consumer.session(turn), consumer.filters
            try:
                while page := await stream.read_page():
                    for event in page:
                        if self._ending:
                            break
                        if filters and not self._wanted(event):
                            turn.pass_over(event)
                        else:
                            await self._delivery.receive(event)
                            await session.consume(event)
            except NotDue:
                pass
            await session.finish()

        try:
            await self._while_moving(cursor, group, consume)
        finally:
            turn.close()
            self.moved = turn.moved

    async def _while_moving(
        self, cursor: MovingCursor, group: Group, work: Callable[[], Awaitable[None]]
    ) -> None:
        """Do ``work`` while the cursor moves over what is passed over, and see that it gets there in the end."""
        self._moving = cursor

        async def moving() -> None:
            group.start(cursor.keep_moving)
            await work()

        try:
            await group.run(moving)
        except BaseException:
            try:
                await shielded(self._arrive(cursor))
            except LeaseLost:
                pass  # Whoever holds the lease now gets these events.
            except Exception:
                # The first error is the one to raise; the events after the stored cursor will come again.
                logger.exception("consumer %s: the cursor could not be stored", self._consumer.name)
            raise
        await shielded(self._arrive(cursor))

    def _wanted(self, event: Event) -> bool:
        try:
            wanted = self._consumer.wants(event)
        except Exception as exc:
            self._hooks.event_failed(self._consumer.name, event, exc, 0.0)
            raise
        if not wanted:
            self._hooks.event_skipped(self._consumer.name, event)
        return wanted

    @asynccontextmanager
    async def _flushed(self) -> AsyncIterator[None]:
        """Flush the store at the end, also when cancelled, within bounds."""
        try:
            yield
        except BaseException:
            try:
                await shielded(self._flush())
            except LeaseLost:
                self.moved = False
            except Exception:
                # The first error is the one to raise; the events after the stored cursor will come again.
                self.moved = False
                logger.exception("consumer %s: the cursor could not be flushed", self._consumer.name)
            raise
        await shielded(self._flush())

    @asynccontextmanager
    async def _attempts_written(self) -> AsyncIterator[None]:
        """Write what has come of the attempts at events, also when cancelled, within bounds."""
        try:
            yield
        finally:
            if self._attempting is not None:
                await shielded(self._attempting.end())

    async def _flush(self) -> None:
        await _bounded(self._store.flush(), f"{self._store!r}: cursors were not flushed")

    async def _arrive(self, cursor: MovingCursor) -> None:
        await _bounded(cursor.move(), f"{self._store!r}: the cursor of {self._consumer.name} was not set")


async def _bounded(work: Awaitable[None], failure: str) -> None:
    with anyio.move_on_after(_STORE_TIMEOUT) as limit:
        await work
    if limit.cancelled_caught:
        raise TimeoutError(f"{failure} within {_STORE_TIMEOUT:g} s")


@asynccontextmanager
async def _entered(resource: object) -> AsyncIterator[None]:
    if isinstance(resource, AbstractAsyncContextManager):
        async with resource:
            yield
    else:
        yield


def _wrong(what: str, value: object, accepted: str) -> TypeError:
    return TypeError(f"{what} {value!r} is a {type(value).__name__}: accepted is {accepted}")
