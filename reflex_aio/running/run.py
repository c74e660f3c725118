"""Running a spec: once, or again and again."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio

from reflex_aio.backoff import Backoff
from reflex_aio.consumer import Handler
from reflex_aio.cursor import CursorMark
from reflex_aio.errors import LeaseLost, StreamStopped
from reflex_aio.event import Event
from reflex_aio.running.cursor_writer import MovingCursor
from reflex_aio.running.delivery import Delivery, NotDue
from reflex_aio.running.manual_commit import SessionConsumer, Turn
from reflex_aio.running.retry_state import Attempting
from reflex_aio.running.supervisor import Rerunning
from reflex_aio.spec import Spec
from reflex_aio.stream import EventStream
from reflex_aio.tasks import Group, shielded

# For Runner too, which isn't told to users: Run, check_endless.
__all__ = ["run", "run_forever"]

logger = logging.getLogger(__name__)

# How long run() may take in the end to store the cursor, and how long to flush the store, in seconds.
_STORE_TIMEOUT = 10.0


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
                self._store,
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
        return self._consumer.effective_handler if self._delivery.is_plain else self._delivery.deliver

    async def _consume(self, stream: EventStream) -> None:
        with self._store.mark(self._consumer.name, fence=self._spec.fence) as mark:
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
                    await self._store.set(self._consumer.name, event.id, fence=self._spec.fence)
                mark.cursor = event.id
                if wanted:
                    self.moved = True

    async def _consume_setting(self, stream: EventStream) -> None:
        """Set the cursor after each event."""
        cursor = self._moving = MovingCursor(self._store, self._consumer.name, fence=self._spec.fence)
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
        cursor = MovingCursor(self._store, consumer.name, expected=expected, fence=self._spec.fence)
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
