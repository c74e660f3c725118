"""Log records tell on which event they were made."""

import logging
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from reflex_aio import Consumer, Event, Spec, run
from reflex_aio.consumer import BaseConsumer
from reflex_aio.hooks import EventLogFilter, LoggingHooks
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.patterns import BatchConsumer, ConcurrentConsumer

pytestmark = pytest.mark.anyio

logger = logging.getLogger("tests.event_logging")


class Records(logging.Handler):
    """Keeps what the records tell."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(EventLogFilter())
        self.told: list[tuple[str, str, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        told = record.__dict__
        self.told.append((record.getMessage(), told["consumer"], told["event_id"], told["foreign_id"]))


@pytest.fixture
def records() -> Iterator[Records]:
    records = Records()
    logger.addHandler(records)
    yield records
    logger.removeHandler(records)


async def events(count: int) -> MemoryEvents:
    events = MemoryEvents()
    for i in range(1, count + 1):
        await events.insert(100 + i, 1)
    return events


async def consume(source: MemoryEvents, consumer: BaseConsumer[Any]) -> None:
    await run(Spec(source, MemoryCursorStore(), consumer, to_head=True, hooks=LoggingHooks()))


async def test_records_of_a_handler_tell_its_event(records: Records) -> None:
    async def handle(event: Event) -> None:
        logger.warning("handled")

    logger.warning("before")
    await consume(await events(2), Consumer("c", handle))
    logger.warning("after")
    assert records.told == [
        ("before", "-", "-", "-"),
        ("handled", "c", "1", "101"),
        ("handled", "c", "2", "102"),
        ("after", "-", "-", "-"),
    ]


async def test_records_of_tasks_that_a_handler_starts_tell_its_event(records: Records) -> None:
    async def work() -> None:
        logger.warning("worked")

    async def handle(event: Event) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(work)

    await consume(await events(1), Consumer("c", handle))
    assert records.told == [("worked", "c", "1", "101")]


async def test_records_of_handlers_at_once_tell_their_own_events(records: Records) -> None:
    arrived = 0
    all_there = anyio.Event()

    async def handle(event: Event) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 3:
            all_there.set()
        await all_there.wait()
        logger.warning(event.id)

    await consume(await events(3), ConcurrentConsumer("c", handle, limit=3))
    assert sorted(records.told) == [(str(i), "c", str(i), str(100 + i)) for i in (1, 2, 3)]


async def test_records_of_a_batch_tell_its_first_event(records: Records) -> None:
    async def handle(events: list[Event]) -> None:
        logger.warning("%d events", len(events))

    await consume(await events(3), BatchConsumer("c", handle, size=3))
    assert records.told == [("3 events", "c", "1", "101")]


async def test_an_error_is_told_of_and_then_forgotten(records: Records) -> None:
    async def handle(event: Event) -> None:
        logger.warning("failing")
        raise ValueError("bad luck")

    with pytest.raises(ValueError, match="bad luck"):
        await consume(await events(1), Consumer("c", handle))
    logger.warning("after")
    assert records.told == [("failing", "c", "1", "101"), ("after", "-", "-", "-")]


async def test_attributes_that_a_record_has_are_kept(records: Records) -> None:
    """As the package's own records have them, of whatever consumer handles an event there."""

    async def handle(event: Event) -> None:
        logger.warning("handled", extra={"consumer": "other", "event_id": "7"})

    await consume(await events(1), Consumer("c", handle))
    assert records.told == [("handled", "other", "7", "101")]
