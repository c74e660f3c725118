"""A runner without leases: it starts what it hosts, says what that is doing, and drains it in the end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
import trio

from reflex_aio import Backoff, ConnectionLost, Consumer, Event, Runner, Spec
from reflex_aio.health import ConsumerState
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.patterns import ConcurrentConsumer
from tests.core.cancelling import on_trio
from tests.core.recording import RecordingStore, Streams
from tests.core.sources import Pages, events
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


async def ignore(event: Event) -> None: ...


def spec_of(name: str = "c", handler: Any = ignore, *steps: Any, **options: Any) -> Spec:
    left = list(steps)
    make: Callable[[str], Pages] = lambda after: left.pop(0) if left else Pages()  # noqa: E731
    return Spec(Streams(make), options.pop("store", MemoryCursorStore()), Consumer(name, handler), **options)


@asynccontextmanager
async def running(runner: Runner) -> AsyncIterator[anyio.CancelScope]:
    """Run it in the background; whoever leaves drains it."""
    async with anyio.create_task_group() as group:
        group.start_soon(runner.run)
        yield group.cancel_scope
        await runner.drain()


def states(runner: Runner) -> dict[str, str]:
    return {name: status.state.value for name, status in runner.statuses().items()}


class Stubborn:
    """A handler that takes its time, whether cancelled or not."""

    def __init__(self, seconds: float, *, shielded: bool = False) -> None:
        self._seconds = seconds
        self._shielded = shielded
        self.began: list[str] = []
        self.finished: list[str] = []

    async def __call__(self, event: Event) -> None:
        self.began.append(event.id)
        with anyio.CancelScope(shield=self._shielded):
            await anyio.sleep(self._seconds)
        self.finished.append(event.id)


# What it is given.


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"specs": []}, ValueError, "specs is empty: accepted is at least one spec"),
        ({"specs": None}, TypeError, "specs None is a NoneType: accepted is a list of specs"),
        ({"specs": spec_of()}, TypeError, r"specs Spec.* is a Spec: accepted is a list of specs"),
        ({"specs": ["c"]}, TypeError, "spec 'c' is a str: accepted is a Spec"),
        ({"specs": [spec_of(), spec_of()]}, ValueError, "two consumers have the name 'c'"),
        ({"specs": [spec_of(to_head=True)]}, ValueError, "c: a spec with to_head=True ends"),
        ({"drain": -1}, ValueError, "drain -1 is out of range: accepted is a number of seconds from 0"),
        ({"drain": "20"}, TypeError, "drain '20' is a str: accepted is a number of seconds"),
        ({"lease_ttl": 0}, ValueError, "ttl 0 is out of range"),
        ({"leases": "db"}, TypeError, "leases 'db' is a str: accepted is a LeaseStore"),
    ],
)
async def test_wrong_arguments_are_refused(arguments: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        Runner(**({"specs": [spec_of()]} | arguments))


async def test_runner_runs_once() -> None:
    runner = Runner([spec_of()])
    async with running(runner):
        pass
    with pytest.raises(RuntimeError, match="a Runner can be used once"):
        await runner.run()


@on_trio
async def test_context_manager_is_refused_where_tasks_can_not_run_in_the_background() -> None:
    with pytest.raises(RuntimeError, match=r"elsewhere, await runner.run\(\)"):
        async with Runner([spec_of()]):
            pass


# Running.


async def test_all_specs_run_side_by_side_until_drained() -> None:
    source, store = MemoryEvents(), MemoryCursorStore()
    for number in range(3):
        await source.insert(number, 1)
    done: set[str] = set()

    def handler(name: str) -> Any:
        async def handle(event: Event) -> None:
            if event.id == "3":
                done.add(name)

        return handle

    runner = Runner(Spec(source, store, Consumer(name, handler(name))) for name in "abc")
    async with running(runner):
        while len(done) < 3:
            await runner.changed()
            await anyio.wait_all_tasks_blocked()
    assert await store.all() == {"a": "3", "b": "3", "c": "3"}
    assert set(states(runner).values()) == {"stopped"}


@on_trio
async def test_spec_that_fails_is_run_again_and_the_others_go_on() -> None:
    failing = spec_of("failing", ignore, *(Pages(ConnectionLost("down")) for _ in range(3)))
    good = spec_of("good")
    runner = Runner([failing, good], backoff=Backoff(10, 10))
    async with running(runner):
        await anyio.sleep(1)
        assert states(runner) == {"failing": "backing off", "good": "running"}
        status = runner.statuses()["failing"]
        assert (status.restarts, status.error) == (1, "ConnectionLost: down")
        assert status.failed_at is not None
        assert (runner.ready, runner.live) == (False, True)
        await anyio.sleep(40)
        assert states(runner) == {"failing": "running", "good": "running"}
        assert runner.statuses()["failing"].restarts == 3
        assert (runner.ready, runner.live) == (True, True)
    assert (runner.ready, runner.live) == (False, True)


@pytest.mark.parametrize("make", [Consumer, partial(ConcurrentConsumer, limit=2)])
@pytest.mark.parametrize("step", ["handler", "cursor"])
async def test_consumer_backs_off_and_is_not_ready_until_the_event_at_which_it_failed_is_consumed(
    make: Any, step: str
) -> None:
    failures, passing, tries = [ConnectionLost("down")], anyio.Event(), 0

    async def work(where: str) -> None:
        nonlocal tries
        if where == step:
            tries += 1
            if failures:
                raise failures.pop()
            await passing.wait()

    class Store(MemoryCursorStore):
        async def set(self, name: str, cursor: str, **options: Any) -> None:
            await work("cursor")
            await super().set(name, cursor, **options)

    async def handle(event: Event) -> None:
        await work("handler")

    source = MemoryEvents()
    await source.insert(1, 1)
    runner = Runner([Spec(source, Store(), make("c", handle))])
    async with running(runner):
        await eventually(lambda: tries == 2)
        assert (states(runner), runner.ready) == ({"c": "backing off"}, False)
        passing.set()
        with anyio.fail_after(deadline(10)):
            while not runner.ready:
                await runner.changed()
        assert states(runner) == {"c": "running"}


@pytest.mark.parametrize("error", [ConnectionLost("down"), ValueError("bug")])
async def test_consumer_without_an_event_in_hand_is_ready_as_soon_as_its_stream_is_open_again(
    error: Exception,
) -> None:
    runner = Runner([spec_of("c", ignore, Pages(error))])
    async with running(runner):
        await eventually(lambda: runner.statuses()["c"].restarts == 1)
        with anyio.fail_after(deadline(10)):
            while not runner.ready:
                await runner.changed()


async def test_consumer_is_starting_until_its_stream_is_open() -> None:
    opening = anyio.Event()
    runner = Runner([spec_of("c", ignore, Pages(on_open=opening.wait))])
    assert (states(runner), runner.ready, runner.live) == ({"c": "starting"}, False, True)
    async with running(runner):
        await anyio.wait_all_tasks_blocked()
        assert (states(runner), runner.ready) == ({"c": "starting"}, False)
        since = runner.statuses()["c"].since
        opening.set()
        await runner.changed()
        assert (states(runner), runner.ready) == ({"c": "running"}, True)
        assert runner.statuses()["c"].since >= since


@pytest.mark.parametrize("filter", [None, lambda event: event.id != "3"])
async def test_cursor_of_a_consumer_is_that_of_the_last_event_it_consumed(filter: Any) -> None:
    handling = anyio.Event()

    async def stay_at_3(event: Event) -> None:
        if event.id == "2":
            handling.set()
            await anyio.sleep_forever()

    consumer = Consumer("c", stay_at_3, filter=filter)
    spec = Spec(Streams(lambda after: Pages(events(1, 3))), MemoryCursorStore(), consumer)
    runner = Runner([spec], drain=0)
    async with running(runner):
        assert runner.statuses()["c"].cursor == ""
        await handling.wait()
        assert runner.statuses()["c"].cursor == "1"
    assert runner.statuses()["c"].cursor == "1"


async def test_fault_in_hooks_stops_one_consumer_and_calls_for_a_restart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from reflex_aio import Hooks

    class Broken(Hooks):
        def consumer_restarting(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("broken hooks")

    broken = spec_of("broken", ignore, Pages(ConnectionLost("down")), hooks=Broken())
    runner = Runner([broken, spec_of("good")])
    async with running(runner):
        while states(runner) != {"broken": "stopped", "good": "running"}:
            await runner.changed()
        assert (runner.ready, runner.live) == (False, False)
    assert "consumer broken cannot be run" in caplog.text


# Draining.


@on_trio
async def test_drain_finishes_what_is_in_hand_and_takes_nothing_more() -> None:
    handler, log = Stubborn(5), list[str]()
    store = RecordingStore(log)
    runner = Runner([spec_of("c", handler, Pages(events(1, 9)), store=store)], drain=20)
    began = trio.current_time()
    async with running(runner):
        await anyio.sleep(12)
        assert states(runner) == {"c": "running"}
        runner.end()
        assert states(runner) == {"c": "running"}
        await anyio.sleep(0.1)
        assert states(runner) == {"c": "draining"}
        assert not runner.ready
    assert trio.current_time() - began == pytest.approx(15, abs=0.1)
    assert handler.began == handler.finished == ["1", "2", "3"]
    assert log[-3:] == ["set 3", "flush", "exit"]
    assert runner.unfinished == []


@on_trio
async def test_what_is_not_finished_in_time_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    slow, quick, store = Stubborn(100), Stubborn(3), MemoryCursorStore()
    runner = Runner(
        [
            spec_of("slow", slow, Pages(events(1, 9)), store=store),
            spec_of("quick", quick, Pages(events(1, 1)), store=store),
        ],
        drain=20,
    )
    began = trio.current_time()
    async with running(runner):
        await anyio.sleep(1)
    assert trio.current_time() - began == pytest.approx(21, abs=0.1)
    assert runner.unfinished == ["slow"]
    assert await store.all() == {"quick": "1"}
    assert "consumers cancelled, not drained within 20 s: slow" in caplog.text


@on_trio
async def test_consumer_that_waits_to_run_again_ends_at_once() -> None:
    runner = Runner([spec_of("c", ignore, Pages(ConnectionLost("down")))], backoff=Backoff(100, 100))
    async with running(runner):
        await anyio.sleep(1)
        began = trio.current_time()
        await runner.drain()
        assert trio.current_time() == began


@on_trio
async def test_drain_may_be_asked_for_twice_and_from_several_tasks_and_after_the_end() -> None:
    handler = Stubborn(5)
    runner = Runner([spec_of("c", handler, Pages(events(1, 2)))])
    async with running(runner), anyio.create_task_group() as group:
        await anyio.sleep(1)
        for _ in range(3):
            group.start_soon(runner.drain)
    await runner.drain()
    assert handler.finished == ["1"]


async def test_runner_that_is_told_to_end_before_it_begins_never_begins() -> None:
    log: list[str] = []
    runner = Runner([spec_of(store=RecordingStore(log))])
    await runner.drain()
    await runner.run()
    assert "get" not in log


@on_trio
async def test_cancelled_run_ends_at_once_and_stores_the_cursors() -> None:
    handler, log = Stubborn(5), list[str]()
    runner = Runner([spec_of("c", handler, Pages(events(1, 9)), store=RecordingStore(log))])
    began = trio.current_time()
    with anyio.move_on_after(12):
        await runner.run()
    assert trio.current_time() - began == pytest.approx(12)
    assert handler.finished == ["1", "2"]
    assert log[-3:] == ["set 2", "flush", "exit"]
    assert runner.unfinished == ["c"]


@on_trio
async def test_consumer_that_goes_on_long_after_it_was_cancelled_calls_for_a_restart() -> None:
    handler = Stubborn(1000, shielded=True)
    runner = Runner([spec_of("c", handler, Pages(events(1, 9)))], drain=20)
    async with running(runner):
        await anyio.sleep(100)
        assert runner.live
        runner.end()
        await anyio.sleep(49)
        assert runner.live
        await anyio.sleep(2)
        assert not runner.live


# As a context manager.


@on_asyncio
async def test_specs_run_while_the_body_does_and_are_drained_after_it() -> None:
    source, store = MemoryEvents(), MemoryCursorStore()
    reached = asyncio.Event()

    async def handle(event: Event) -> None:
        reached.set()
        await anyio.sleep(0.01)

    async with Runner([Spec(source, store, Consumer("c", handle))]) as runner:
        await source.insert(1, 1)
        await reached.wait()
        assert states(runner) == {"c": "running"}
    assert await store.all() == {"c": "1"}
    assert states(runner) == {"c": "stopped"}


@on_asyncio
async def test_failing_spec_never_cancels_the_body() -> None:
    restarts = 0

    async def fail(event: Event) -> None:
        nonlocal restarts
        restarts += 1
        raise ValueError("x")

    spec = Spec(Streams(lambda after: Pages(events(1, 1))), MemoryCursorStore(), Consumer("c", fail))
    async with Runner([spec], backoff=Backoff(0.001, 0.001)):
        await eventually(lambda: restarts >= 5)


@on_asyncio
async def test_body_that_raises_drains_all_the_same() -> None:
    handler = Stubborn(0.01)

    async def fail() -> None:
        async with Runner([spec_of("c", handler, Pages(events(1, 1)))]):
            await eventually(lambda: handler.began, every=0)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert handler.finished == ["1"]


@on_asyncio
async def test_body_that_is_cancelled_by_asyncio_drains_and_a_second_cancellation_ends_at_once() -> None:
    for cancellations, finished in ((1, ["1"]), (2, [])):
        handler = Stubborn(0.05)

        async def host(handler: Stubborn = handler) -> None:
            async with Runner([spec_of("c", handler, Pages(events(1, 1)))]):
                await asyncio.Event().wait()

        task = asyncio.create_task(host())
        await eventually(partial(lambda handler: handler.began, handler), every=0)
        for _ in range(cancellations):
            task.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert handler.finished == finished


@on_asyncio
async def test_body_in_a_scope_that_is_cancelled_ends_at_once() -> None:
    handler = Stubborn(1000)
    with anyio.CancelScope() as scope:
        async with Runner([spec_of("c", handler, Pages(events(1, 1)))]) as runner:
            await eventually(lambda: handler.began, every=0)
            scope.cancel()
    assert scope.cancelled_caught
    assert runner.statuses()["c"].state is ConsumerState.STOPPED


@on_asyncio
async def test_runners_may_be_left_in_any_order_and_in_other_tasks() -> None:
    first, second = Runner([spec_of("a")]), Runner([spec_of("b")])
    await first.__aenter__()
    await second.__aenter__()
    await asyncio.create_task(first.__aexit__(None, None, None))
    await asyncio.create_task(second.__aexit__(None, None, None))
    assert (states(first), states(second)) == ({"a": "stopped"}, {"b": "stopped"})


@on_asyncio
async def test_what_is_no_exception_fails_the_runner_as_a_whole(caplog: pytest.LogCaptureFixture) -> None:
    class Fatal(BaseException):
        """As MemoryError might be."""

    async def fail(event: Event) -> None:
        raise Fatal

    caplog.set_level(logging.ERROR)
    async with Runner([spec_of("c", fail, Pages(events(1, 1))), spec_of("other")]) as runner:
        await eventually(lambda: not runner.live)
        assert states(runner) == {"c": "stopped", "other": "stopped"}
    assert "background task reflex_aio runner failed" in caplog.text
