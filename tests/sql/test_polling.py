"""The intervals of polling, by a clock that only advances when every task waits."""

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
    """Return the times from ``start`` to ``end`` at which a reader polls."""
    times = [start]
    while (time := times[-1] + polling.interval(times[-1])) <= end:
        times.append(time)
    return times[1:]


# The interval.


def test_before_any_event_the_interval_is_the_ceiling() -> None:
    assert Polling(floor=FLOOR, ceiling=CEILING).interval(100.0) == CEILING


def test_right_after_an_event_the_interval_is_the_floor() -> None:
    polling = Polling(floor=FLOOR, ceiling=CEILING)
    polling.active_at = 100.0
    assert polling.interval(100.0) == FLOOR
    assert polling.interval(100.0 + 10 * FLOOR) == pytest.approx(FLOOR)


@pytest.mark.parametrize("pause", [0.01, 0.5, 1.0, 2.5, 7.0, 9.9])
def test_an_event_after_a_pause_is_found_within_a_tenth_of_it_or_the_floor(pause: float) -> None:
    polling = Polling(floor=FLOOR, ceiling=CEILING)
    polling.active_at = 0.0
    found = next(time for time in polls(polling, 0.0, 20.0) if time >= pause)
    assert found - pause <= max(FLOOR, pause * 0.1)


def test_an_idle_table_is_polled_once_per_ceiling() -> None:
    polling = Polling(floor=FLOOR, ceiling=CEILING)
    polling.active_at = 0.0
    times = polls(polling, 0.0, 100.0)
    assert all(
        later - earlier == pytest.approx(CEILING)
        for earlier, later in pairwise(times)
        if earlier > CEILING * 10
    )
    # And few polls lead there.
    assert len([time for time in times if time < CEILING * 10]) < 45


def test_a_floor_at_or_above_the_ceiling_makes_the_interval_constant() -> None:
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
    """Loads events that appear at given times, and records the times of its calls."""

    topic = "public.events"
    lags = False
    obsolete = False
    gaps = NoGaps()

    def __init__(self, *times: float) -> None:
        self.times = times
        self.loaded_at: list[float] = []

    async def open(self) -> None: ...

    async def head(self, lag: float | None) -> Position:
        return 0

    async def load(self, position: Position, statements: PinnedConnection) -> Page:
        now = asyncio.get_running_loop().time()
        self.loaded_at.append(now)
        there = len([time for time in self.times if time <= now])
        events = [Event(str(number), 1, "1", 0) for number in range(position + 1, there + 1)]
        return Page(events, there, False, False)

    async def aclose(self) -> None: ...


class Nothing:
    """The connection of a reader that needs none."""

    async def aclose(self) -> None: ...


def never(wake: Any) -> Any:
    return lambda: None


def load_times(
    *times: float, until: float, polling: Polling, subscribe: Subscribe = never
) -> Sequence[float]:
    """Return the times at which the reader loads events that appear at ``times``, for two streams."""
    loader = EventsAt(*times)

    async def read() -> None:
        tail = Tail(
            loader,
            Nothing(),  # type: ignore[arg-type]
            subscribe,
            tails=(),
            polling=polling,
            table="events",
            limit=1 << 20,
        )
        feeds = [tail.attach(0), tail.attach(0)]
        assert all(feeds)
        await asyncio.sleep(until)
        await tail.aclose()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(read())
    return loader.loaded_at


def most(times: Sequence[float], after: float, before: float) -> float:
    """Return the longest interval between consecutive times from ``after`` to ``before``."""
    within = [time for time in times if after <= time <= before]
    return max(later - earlier for earlier, later in pairwise(within))


def test_the_reader_polls_often_while_events_arrive_and_ever_less_often_otherwise() -> None:
    flowing = [30 + i * 0.2 for i in range(50)]
    times = load_times(*flowing, until=80.0, polling=Polling(floor=FLOOR, ceiling=CEILING))
    assert most(times, 31.0, 40.0) <= FLOOR
    # Idle, before and after: at the ceiling, minus the jitter.
    for since in (12.0, 52.0):
        idle_times = [time for time in times if since <= time <= since + 15.0]
        assert len(idle_times) <= 15 / (CEILING * 0.9) + 1
        assert most(idle_times, 0.0, 80.0) <= CEILING


def test_a_wake_up_makes_the_reader_load_immediately_and_often_thereafter() -> None:
    woken_at = 30.0

    def subscribe(wake: Any) -> Any:
        asyncio.get_running_loop().call_at(woken_at, wake)
        return lambda: None

    times = load_times(until=35.0, polling=Polling(floor=FLOOR, ceiling=CEILING), subscribe=subscribe)
    assert woken_at in times
    # No event was found: the writer may not have committed yet.
    assert most(times, woken_at, woken_at + 0.5) <= FLOOR


def test_a_reader_with_reliable_wake_ups_polls_at_the_ceiling_however_many_events_arrive() -> None:
    flowing = [i * 0.02 for i in range(1000)]
    times = load_times(*flowing, until=20.0, polling=Polling(floor=CEILING, ceiling=CEILING))
    assert len(times) <= 20.0 / (CEILING * 0.9) + 2
