"""A handler that tries again, whatever consumer it is of."""

import asyncio
from typing import Any

import anyio
import pytest

from reflex_aio import Backoff, Event, Spec, run
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.patterns import AckConsumer, BatchConsumer, ConcurrentConsumer, DeadLetterConsumer, retrying
from tests.core.cancelling import on_trio
from tests.core.sources import event
from tests.patterns.making import Handling, some
from tests.patterns.test_giving_up import Failing, Recorder

pytestmark = pytest.mark.anyio

FAST = Backoff(initial=0.001, maximum=0.001)


class FailsAtFirst:
    """Fails so many times."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.left = times
        self.calls = 0
        self.error = ValueError("x") if error is None else error

    async def __call__(self, item: Any) -> None:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error


@pytest.mark.parametrize("retries", [0, 1, 3, None])
async def test_handler_is_called_again_so_many_times(retries: int | None) -> None:
    enough = FailsAtFirst(20 if retries is None else retries)
    await retrying(enough, retries=retries, backoff=FAST)(event(1))
    assert enough.calls == (21 if retries is None else retries + 1)
    if retries is not None:
        one_more = FailsAtFirst(retries + 1)
        with pytest.raises(ValueError, match="x") as caught:
            await retrying(one_more, retries=retries, backoff=FAST)(event(1))
        assert caught.value is one_more.error
        assert one_more.calls == retries + 1


async def test_other_errors_are_raised_at_once() -> None:
    handler = FailsAtFirst(1, KeyError("x"))
    with pytest.raises(KeyError):
        await retrying(handler, retries=5, errors=(OSError, ValueError))(event(1))
    assert handler.calls == 1


@on_trio
async def test_delays_are_those_of_the_backoff_from_the_beginning_for_each_event() -> None:
    handler = FailsAtFirst(3)
    handle = retrying(handler, retries=3, backoff=Backoff(initial=8.0, maximum=16.0))
    for _ in range(2):
        began, handler.left = anyio.current_time(), 3
        await handle(event(1))
        assert 20 <= anyio.current_time() - began <= 40


@on_trio
async def test_cancellation_ends_the_retries() -> None:
    handler = FailsAtFirst(10**6)
    with anyio.move_on_after(100) as scope:
        await retrying(handler, retries=None)(event(1))
    assert scope.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_clean_up_that_fails_does_not_make_a_retry_of_a_cancellation() -> None:
    calls = 0

    async def handle(event: Event) -> None:
        nonlocal calls
        calls += 1
        try:
            await asyncio.sleep(3600)
        finally:
            raise OSError("clean-up")

    async def consume() -> None:
        await retrying(handle, retries=None, backoff=FAST)(event(1))

    task = asyncio.create_task(consume())
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    with pytest.raises(OSError, match="clean-up"):
        await task
    assert calls == 1


async def test_it_goes_with_every_kind_of_consumer() -> None:
    handling = Handling()
    failed: set[str] = set()

    def fail_once(event: Event) -> None:
        if event.id not in failed:
            failed.add(event.id)
            raise ValueError("x")

    for consumer in (
        AckConsumer("c", retrying(handling.ack, retries=1, backoff=FAST)),
        BatchConsumer("c", retrying(handling.batch, retries=2, backoff=FAST), size=2),
        ConcurrentConsumer("c", retrying(handling.one, retries=1, backoff=FAST), limit=2),
    ):
        handling.finished, handling.before, store = [], fail_once, MemoryCursorStore()
        failed.clear()
        await run(Spec(await some(4), store, consumer, to_head=True))
        assert sorted(handling.finished) == [1, 2, 3, 4]
        assert await store.get("c") == "4"


async def test_dead_letters_are_recorded_after_the_retries_in_place() -> None:
    handler, recorder = Failing(), Recorder()
    consumer = DeadLetterConsumer("c", retrying(handler, retries=2, backoff=FAST), recorder, retries=0)
    await run(Spec(await some(3), MemoryCursorStore(), consumer, to_head=True))
    assert handler.calls == [1, 2, 2, 2, 3]
    assert recorder.recorded == [("c", "2", "at 2")]
