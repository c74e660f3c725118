"""One run of a spec: from its cursor to an error, a cancellation, or the head."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from reflex_aio.backoff import report_answer
from reflex_aio.consumer import Handler
from reflex_aio.cursor import CursorMark, CursorStore
from reflex_aio.errors import CursorConflict, LeaseLost, StreamStopped
from reflex_aio.event import Event
from reflex_aio.running.cursor_writer import CursorWriter
from reflex_aio.running.delivery import Delivery, NotDue
from reflex_aio.running.manual_commit import ManualCommitConsumer, RunContext
from reflex_aio.running.retry_state import RetryState
from reflex_aio.spec import Spec
from reflex_aio.stream import BEGINNING, EventStream
from reflex_aio.tasks import Group, shielded

__all__ = ["Run", "run", "start_cursor"]

logger = logging.getLogger(__name__)

# The time limits for storing the cursor at the end of a run, and for flushing the store, in seconds.
_STORE_TIMEOUT = 10.0


async def run(spec: Spec) -> None:
    """Consume events from the consumer's cursor on. Return after the head if the spec ends there.

    The cursor is set after the handler has returned. Whatever ends the run, the next run begins with the first event
    that was not finished. Before this function returns or raises, the cursor store is flushed. A consumer of
    :mod:`reflex_aio.patterns` may commit its cursor in another way, but never past an unfinished event.

    :raises StreamStopped: if the source ended the stream
    :raises Exception: whatever the handler, the source or the cursor store raises
    """
    await Run(spec).run()


class Run:
    """One run of a spec.

    :param opened: called when the stream is open
    :param delayed: called with ``True`` before waiting for an event's next attempt, and with ``False`` afterwards
    """

    def __init__(
        self,
        spec: Spec,
        *,
        opened: Callable[[], None] = lambda: None,
        delayed: Callable[[bool], None] = lambda delayed: None,
    ) -> None:
        self._spec = spec
        self._consumer = spec.consumer
        self._store = spec.store
        self._hooks = spec.hooks
        self._opened = opened
        self._stream: EventStream | None = None
        self._ending = False
        self._writer: CursorWriter | None = None
        self._mark: CursorMark | None = None
        self._retry_state: RetryState | None = None
        if spec.attempts is not None:
            self._retry_state = RetryState(spec.consumer, spec.attempts, spec.retry_backoff)
        self._delivery = Delivery(
            spec.consumer,
            spec.hooks,
            lag=spec.options.lag,
            clock=spec.clock,
            retry_state=self._retry_state,
            delayed=delayed,
        )
        # The stored cursor at the start of the run.
        self._start = ""
        # The events that are being consumed, in part already, or the context of the processor that consumes them.
        self._page: Sequence[Event] = ()
        self._context: RunContext[Any] | None = None
        self.advanced: bool = False
        """True if the cursor was moved past an event that was handled."""
        self.failed_at_event: bool = False
        """True if the run was busy when it ended with an error."""

    @property
    def cursor(self) -> str:
        """The last cursor that the run stored, or wrote to a mark; ``""`` before the first."""
        if self._mark is not None:
            return self._mark.cursor
        return "" if self._writer is None else self._writer.stored

    @property
    def in_hand(self) -> str:
        """The id of the event that is being consumed, the first one of several; ``""`` if there is none."""
        if self._context is not None:
            return self._context.first_unfinished
        if not self._page:
            return ""
        # Found here, when it is asked for, as this takes no time when an event is consumed.
        reached = self._writer.reached if self._writer is not None else self.cursor
        ids = [event.id for event in self._page]
        after = ids.index(reached) + 1 if reached in ids else 0
        return ids[after] if after < len(ids) else ""

    @property
    def has_advanced(self) -> bool:
        """:attr:`advanced`, also of a processor that is running."""
        return self.advanced or (self._context is not None and self._context.advanced)

    @property
    def busy(self) -> bool:
        """True while an event is being consumed, or a cursor stored."""
        return bool(self.in_hand) or (self._writer is not None and self._writer.writing)

    async def stored_cursor(self) -> str:
        """Return the consumer's cursor as it is stored now, or ``""`` if it has none."""
        async with self._store:
            return await self._store.get(self._consumer.name)

    def end(self) -> bool:
        """Receive no more events, and finish those in hand.

        :return: whether there can be events in hand, since the stream is open
        """
        self._ending = True
        self._delivery.end()
        if self._stream is None:
            return False
        self._stream.end()
        return True

    async def run(self) -> None:
        """Run until something is raised, until :meth:`end` is called, or to the head if the spec ends there."""
        consumer, hooks = self._consumer, self._hooks
        hooks.consumer_started(
            consumer.name, lag_alert=consumer.lag_alert, activity_ttl=consumer.activity_ttl
        )
        error: BaseException | None = None
        try:
            async with (
                self._saving_attempts(),
                self._store,
                self._flushing(),
                consumer,
                self._source_stream(await start_cursor(self._spec)) as stream,
            ):
                self._stream = stream
                if self._retry_state is not None:
                    await self._retry_state.load(self._start)
                report_answer()
                self._opened()
                # Not contextlib.suppress, which replaces exception groups.
                try:
                    if isinstance(consumer, ManualCommitConsumer):
                        await self._consume_with_processor(consumer, stream)
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
        self._start, options = after, self._spec.options
        # The lag is applied here, before the consumer. The source needs it only to resolve the head.
        lag = options.lag if options.from_head or options.to_head else None
        return self._spec.source.stream(after, from_head=options.from_head, to_head=options.to_head, lag=lag)

    def _handler(self) -> Handler:
        """Return the function that is called for each event that the filters accept."""
        return self._consumer.effective_handler if self._delivery.is_plain else self._delivery.deliver

    async def _consume(self, stream: EventStream) -> None:
        try:
            with self._store.mark(self._consumer.name, fence=self._spec.fence) as mark:
                if mark is None:
                    await self._consume_with_sets(stream)
                else:
                    await self._consume_with_mark(stream, mark)
        except BaseException:
            self._note_failure()
            raise
        finally:
            self._page = ()

    async def _consume_with_mark(self, stream: EventStream, mark: CursorMark) -> None:
        """Write the cursor to a mark, which the store reads. This loop may run a million times a second."""
        self._mark, handle, all_wanted = mark, self._handler(), not self._consumer.filters
        while page := await stream.read_page():
            self._page = page
            for event in page:
                if self._ending:
                    return
                if wanted := all_wanted or self._wants(event):
                    await handle(event)
                if mark.refused:
                    await self._store.set(self._consumer.name, event.id, fence=self._spec.fence)
                mark.cursor = event.id
                if wanted:
                    self.advanced = True

    async def _consume_with_sets(self, stream: EventStream) -> None:
        """Set the cursor after each event."""
        writer = self._writer = CursorWriter(self._store, self._consumer.name, fence=self._spec.fence)
        handle, all_wanted = self._handler(), not self._consumer.filters

        async def consume() -> None:
            while page := await stream.read_page():
                self._page = page
                for event in page:
                    if self._ending:
                        return
                    if all_wanted or self._wants(event):
                        await handle(event)
                        await writer.set(event.id)
                        self.advanced = True
                    else:
                        writer.skip(event.id)

        if all_wanted:
            await consume()
        else:
            await self._while_writing(writer, Group(self._consumer.name), consume)

    async def _consume_with_processor(self, consumer: ManualCommitConsumer[Any], stream: EventStream) -> None:
        expected = self._start if consumer.needs_transactions else None
        writer = CursorWriter(self._store, consumer.name, expected=expected, fence=self._spec.fence)
        group = Group(consumer.name)

        async def handle(item: Any, events: Sequence[Event]) -> None:
            if await self._delivery.handle(item, events) and self._retry_state is not None:
                # In another task: a transaction may be open here, on the last connection of the pool.
                group.start(self._retry_state.clear_handled)

        context = self._context = RunContext(writer, group, handle)

        async def consume() -> None:
            processor, filters = consumer.processor(context), consumer.filters
            try:
                while page := await stream.read_page():
                    for event in page:
                        if self._ending:
                            break
                        if filters and not self._wants(event):
                            context.skip(event)
                        else:
                            await self._delivery.receive(event)
                            await processor.process(event)
            except NotDue:
                pass
            await processor.drain()

        try:
            await self._while_writing(writer, group, consume)
        except BaseException:
            self._note_failure()
            raise
        finally:
            context.close()
            self._context, self.advanced = None, context.advanced

    def _note_failure(self) -> None:
        self.failed_at_event = self.busy or (self._writer is not None and self._writer.failed)

    async def _while_writing(
        self, writer: CursorWriter, group: Group, work: Callable[[], Awaitable[None]]
    ) -> None:
        """Do ``work``, and write the cursor after skipped events once per period and at the end."""
        self._writer = writer

        async def work_and_write() -> None:
            group.start(writer.keep_writing)
            await work()

        try:
            await group.run(work_and_write)
        except BaseException:
            try:
                await shielded(self._write_last(writer))
            except LeaseLost:
                pass  # The new owner of the lease gets these events.
            except Exception as exc:
                # The first error is raised. The events after the stored cursor will be delivered again.
                self._log_failure(exc, "could not store the cursor")
            raise
        await shielded(self._write_last(writer))

    def _wants(self, event: Event) -> bool:
        try:
            wanted = self._consumer.wants(event)
        except Exception as exc:
            self._hooks.event_failed(self._consumer.name, event, exc, 0.0)
            raise
        if not wanted:
            self._hooks.event_skipped(self._consumer.name, event)
        return wanted

    @asynccontextmanager
    async def _flushing(self) -> AsyncIterator[None]:
        """Flush the store at the end, also if cancelled, within a time limit."""
        try:
            yield
        except BaseException:
            try:
                await shielded(self._flush())
            except LeaseLost:
                self.advanced = False
            except Exception as exc:
                # The first error is raised. The events after the stored cursor will be delivered again.
                self.advanced = False
                self._log_failure(exc, "could not flush the cursor store")
            raise
        await shielded(self._flush())

    @asynccontextmanager
    async def _saving_attempts(self) -> AsyncIterator[None]:
        """Save the outcome of attempts at the end, also if cancelled, within a time limit."""
        try:
            yield
        finally:
            if self._retry_state is not None:
                await shielded(self._retry_state.save())

    async def _flush(self) -> None:
        await _within_limit(self._store.flush(), f"{self._store!r}: cursors were not flushed")

    async def _write_last(self, writer: CursorWriter) -> None:
        await _within_limit(
            writer.write(), f"{self._store!r}: the cursor of {self._consumer.name} was not set"
        )

    def _log_failure(self, error: Exception, failure: str) -> None:
        name = self._consumer.name
        logger.error("consumer %s: %s", name, failure, exc_info=error, extra={"consumer": name})


async def start_cursor(spec: Spec) -> str:
    """Return the consumer's stored cursor. Without one, store the cursor of the spec's ``start``, and return that."""
    store, name = spec.store, spec.consumer.name
    cursor = await store.get(name)
    if cursor:
        return cursor
    start = await _resolve_start(spec)
    if not start:
        return ""
    try:
        await store.set(name, start, expected="", fence=spec.fence)
    except CursorConflict:
        # Another run of the consumer was first.
        if cursor := await store.get(name):
            return cursor
        raise
    # Before the first event: a crash after it must not let the next run start at a later head.
    await store.flush()
    return start


async def _resolve_start(spec: Spec) -> str:
    """Return the cursor of the spec's ``start``, or ``""`` for the beginning."""
    if isinstance(spec.start, CursorStore):
        return await spec.start.get(spec.consumer.name)
    if spec.start == "beginning":
        return ""
    if spec.start == "head":
        return await spec.source.head() or BEGINNING
    return spec.start


async def _within_limit(work: Awaitable[None], failure: str) -> None:
    with anyio.move_on_after(_STORE_TIMEOUT) as limit:
        await work
    if limit.cancelled_caught:
        raise TimeoutError(f"{failure} within {_STORE_TIMEOUT:g} s")
