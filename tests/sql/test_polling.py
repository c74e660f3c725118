"""How often a reader looks, where nothing tells it of events: told by a clock that stands still until it is asked."""

import asyncio
import selectors
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from reflex_aio import Event
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.loader import GapResolver, Loader, Page, Position
from reflex_aio.sql.events.tail import Polling, Subscribe, Tail
from reflex_aio.sql.wakeups.notifier import TimedEvent

FLOOR, CEILING = 0.05, 1.0


def polls(polling: Polling, start: float, end: float) -> list[float]:
    """Return when a reader polls that waits as it is told, from ``start`` to ``end``."""
    times = [start]
    while (time := times[-1] + polling.interval(times[-1])) <= end:
        times.append(time)
    return times[1:]


# The period.


def test_nothing_has_happened_yet_and_the_ceiling_is_the_period() -> None:
    assert Polling(floor=FLOOR, ceiling=CEILING).interval(100.0) == CEILING


def test_right_after_something_has_happened_the_floor_is_the_period() -> None:
    polling = Polling(floor=FLOOR, ceiling=CEILING)
    polling.active_at = 100.0
    assert polling.interval(100.0) == FLOOR
    assert polling.interval(100.0 + 10 * FLOOR) == pytest.approx(FLOOR)


@pytest.mark.parametrize("pause", [0.01, 0.5, 1.0, 2.5, 7.0, 9.9])
def test_what_comes_after_a_pause_waits_for_a_tenth_of_it_or_the_floor(pause: float) -> None:
    polling = Polling(floor=FLOOR, ceiling=CEILING)
    polling.active_at = 0.0
    found = next(time for time in polls(polling, 0.0, 20.0) if time >= pause)
    assert found - pause <= max(FLOOR, pause * 0.1)


def test_an_idle_table_is_asked_once_in_a_ceiling() -> None:
    polling = Polling(floor=FLOOR, ceiling=CEILING)
    polling.active_at = 0.0
    times = polls(polling, 0.0, 100.0)
    assert all(
        later - earlier == pytest.approx(CEILING)
        for earlier, later in pairwise(times)
        if earlier > CEILING * 10
    )
    # And comes there by so few polls.
    assert len([time for time in times if time < CEILING * 10]) < 45


def test_a_floor_at_or_above_the_ceiling_makes_it_the_period_always() -> None:
    for floor in (CEILING, CEILING * 3):
        polling = Polling(floor=floor, ceiling=CEILING)
        polling.active_at = 0.0
        assert polls(polling, 0.0, 5.0) == [1.0, 2.0, 3.0, 4.0, 5.0]


# The reader at the head of a table.


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever every task waits."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = selectors.DefaultSelector()
        select = selector.select

        def jump(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            self.now += timeout or 0.0
            return select(0 if timeout is not None else None)

        selector.select = jump  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self.now


class NoGaps(GapResolver):
    """The gaps of a table that has none."""

    async def resolve(self, position: Position, woken: TimedEvent | None = None) -> None: ...


class EventsAt(Loader):
    """Loads events that are there from given times on, and writes down when it was asked."""

    topic = "public.events"
    lags = False
    obsolete = False
    gaps = NoGaps()

    def __init__(self, *times: float) -> None:
        self.times = times
        self.asked: list[float] = []

    async def open(self) -> None: ...

    async def head(self, lag: float | None) -> Position:
        return 0

    async def load(self, position: Position, statements: PinnedConnection) -> Page:
        now = asyncio.get_running_loop().time()
        self.asked.append(now)
        there = len([time for time in self.times if time <= now])
        events = [Event(str(number), 1, "1", 0) for number in range(position + 1, there + 1)]
        return Page(events, there, False, False)

    async def aclose(self) -> None: ...


class Nothing:
    """The connection of a reader that needs none."""

    async def aclose(self) -> None: ...


def never(wake: Any) -> Any:
    return lambda: None


def asked(*times: float, until: float, polling: Polling, subscribe: Subscribe = never) -> Sequence[float]:
    """Return when the reader asks for events that come at ``times``, read by two streams."""
    loader = EventsAt(*times)

    async def read() -> None:
        tail = Tail(
            loader,
            Nothing(),  # type: ignore[arg-type]
            subscribe,
            tails=(),
            polling=polling,
            table="events",
        )
        feeds = [tail.attach(0), tail.attach(0)]
        assert all(feeds)
        await asyncio.sleep(until)
        await tail.aclose()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(read())
    return loader.asked


def most(times: Sequence[float], after: float, before: float) -> float:
    """Return the longest time between two in a row, of those in between."""
    within = [time for time in times if after <= time <= before]
    return max(later - earlier for earlier, later in pairwise(within))


def test_the_reader_asks_often_while_events_flow_and_less_and_less_when_they_dont() -> None:
    flowing = [30 + i * 0.2 for i in range(50)]
    times = asked(*flowing, until=80.0, polling=Polling(floor=FLOOR, ceiling=CEILING))
    assert most(times, 31.0, 40.0) <= FLOOR
    # Idle, before and after: at the ceiling, less what spreads processes out.
    for since in (12.0, 52.0):
        asked_idle = [time for time in times if since <= time <= since + 15.0]
        assert len(asked_idle) <= 15 / (CEILING * 0.9) + 1
        assert most(asked_idle, 0.0, 80.0) <= CEILING


def test_a_wake_up_makes_the_reader_ask_at_once_and_often_thereafter() -> None:
    woken_at = 30.0

    def subscribe(wake: Any) -> Any:
        asyncio.get_running_loop().call_at(woken_at, wake)
        return lambda: None

    times = asked(until=35.0, polling=Polling(floor=FLOOR, ceiling=CEILING), subscribe=subscribe)
    assert woken_at in times
    # Nothing was found: whoever woke may not have committed yet.
    assert most(times, woken_at, woken_at + 0.5) <= FLOOR


def test_a_reader_that_is_told_of_events_asks_no_more_often_however_many_come() -> None:
    flowing = [i * 0.02 for i in range(1000)]
    times = asked(*flowing, until=20.0, polling=Polling(floor=CEILING, ceiling=CEILING))
    assert len(times) <= 20.0 / (CEILING * 0.9) + 2
