"""Whatever goes wrong in a consumer of whatever kind: no event is lost, and none unfinished is behind the cursor."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from reflex_aio import Backoff, Event, Spec, run, run_forever
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.patterns import AckConsumer
from tests.core.cancelling import CancelledAt, each_cancellation, on_trio
from tests.core.recording import RecordingHooks, RecordingStore, Streams
from tests.core.sources import Pages, events
from tests.patterns.making import Handling, each_consumer, some

pytestmark = pytest.mark.anyio

COUNT = 6
each_filter = pytest.mark.parametrize(
    "wanted", [range(1, COUNT + 1), range(2, COUNT + 1, 2), range(3, 5)], ids=["all", "even", "middle"]
)


def options_for(wanted: range) -> dict[str, Any]:
    return {} if len(wanted) == COUNT else {"filter": lambda event: int(event.id) in wanted}


async def assert_nothing_lost(
    store: MemoryCursorStore, consumer: Any, handling: Handling, wanted: range, source: Any = None
) -> None:
    """Check the cursor against what was finished, and that another run does the rest."""
    cursor = int((await store.all()).get("c", 0))
    unfinished = [number for number in wanted if number not in handling.finished]
    assert not unfinished or cursor < unfinished[0], f"cursor {cursor}, finished {handling.finished}"
    already = len(handling.finished)
    handling.before = lambda event: None
    await run(Spec(source or await some(COUNT), store, consumer, to_head=True))
    assert sorted(handling.finished[already:]) == [number for number in wanted if number > cursor]
    assert (await store.all())["c"] == str(COUNT)


@each_consumer
@each_filter
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
async def test_error_of_the_handler_comes_out_as_it_is(
    make: Any, wanted: range, kind: type[BaseException]
) -> None:
    for number in wanted:
        error = kind(f"at {number}")

        def fail(event: Event, number: int = number, error: BaseException = error) -> None:
            if int(event.id) == number:
                raise error

        handling, store, hooks = Handling(fail), RecordingStore(), RecordingHooks()
        consumer = make(handling, **options_for(wanted))
        with pytest.raises(kind) as caught:
            await run(Spec(await some(COUNT), store, consumer, to_head=True, hooks=hooks))
        assert caught.value is error
        assert hooks.log[-1] == ("stopped", "c", error)
        assert number not in handling.finished
        await assert_nothing_lost(store, consumer, handling, wanted)


@each_consumer
@each_filter
async def test_error_of_the_store_comes_out_as_it_is(
    make: Any, wanted: range, caplog: pytest.LogCaptureFixture
) -> None:
    failing_at, failed = 0, True
    while failed:
        failing_at += 1
        error, sets = OSError(f"at {failing_at}"), 0

        async def fail(failing_at: int = failing_at, error: OSError = error) -> None:
            nonlocal sets
            sets += 1
            await anyio.lowlevel.checkpoint()
            if sets == failing_at:
                raise error

        handling, store, hooks = Handling(), RecordingStore(set=fail), RecordingHooks()
        consumer = make(handling, **options_for(wanted))
        with suppress(OSError):
            await run(Spec(await some(COUNT), store, consumer, to_head=True, hooks=hooks))
        failed = sets >= failing_at
        assert hooks.log[-1] == ("stopped", "c", error if failed else None)
        await assert_nothing_lost(store, consumer, handling, wanted)
    assert failing_at > 1
    assert not caplog.records


@each_consumer
@each_filter
@pytest.mark.parametrize("broken_after", range(COUNT + 1))
async def test_error_of_the_stream_comes_out_as_it_is(make: Any, wanted: range, broken_after: int) -> None:
    error = OSError("lost")
    pages = [page for page in (events(1, broken_after),) if page]
    handling, store = Handling(), RecordingStore()
    consumer = make(handling, **options_for(wanted))
    with pytest.raises(OSError, match="lost") as caught:
        await run(Spec(Streams(lambda after: Pages(*pages, error)), store, consumer))
    assert caught.value is error
    await assert_nothing_lost(store, consumer, handling, wanted)


@each_cancellation
@each_consumer
@each_filter
async def test_run_that_is_cancelled_anywhere_loses_nothing(
    cancelled_at: CancelledAt, make: Callable[..., Any], wanted: range
) -> None:
    step, in_time = 0, True
    while in_time:
        step += 1
        handling, store = Handling(), RecordingStore()
        consumer = make(handling, **options_for(wanted))
        in_time = await cancelled_at(step, run(Spec(await some(COUNT), store, consumer, to_head=True)))
        assert store.log.count("exit") == store.log.count("enter"), f"cancelled at {step}"
        await assert_nothing_lost(store, consumer, handling, wanted)
    assert step > 5


@each_consumer
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_cancellation_that_nobody_asked_for_is_no_silent_end(make: Any) -> None:
    """As grpc.aio raises one when a channel is closed under a call of the handler's. (On trio nobody can.)"""
    cancelled = anyio.get_cancelled_exc_class()

    def fail(event: Event) -> None:
        if event.id == "3":
            raise cancelled

    handling, store = Handling(fail), RecordingStore()
    consumer = make(handling)
    with pytest.raises(cancelled):
        await run(Spec(await some(COUNT), store, consumer, to_head=True))
    await assert_nothing_lost(store, consumer, handling, range(1, COUNT + 1))


@each_consumer
@each_filter
async def test_store_that_is_down_is_told_of_once(
    make: Any, wanted: range, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise OSError("down")

    consumer = make(Handling(), **options_for(wanted))
    with pytest.raises(OSError, match="down"):
        await run(Spec(await some(COUNT), RecordingStore(set=fail), consumer, to_head=True))
    assert not caplog.records


@on_trio
async def test_run_that_got_on_begins_the_backoff_anew() -> None:
    failed: set[str] = set()

    def fail_once(event: Event) -> None:
        if event.id not in failed:
            failed.add(event.id)
            raise ValueError("x")

    hooks, handling = RecordingHooks(), Handling(fail_once)
    spec = Spec(await some(COUNT), MemoryCursorStore(), AckConsumer("c", handling.ack), hooks=hooks)
    with anyio.move_on_after(200):
        await run_forever(spec, backoff=Backoff(initial=1.0, maximum=64.0))
    assert handling.finished == list(range(1, COUNT + 1))
    delays = [told[-1] for told in hooks.log if told[0] == "restarting"]
    assert len(delays) == COUNT
    # But for the second: the first run moved nothing, and each one after it did.
    assert all(delay <= 1.0 for delay in [delays[0], *delays[2:]])
