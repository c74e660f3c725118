"""Only what is acknowledged moves the cursor."""

import anyio
import pytest

from reflex_aio import Spec, StreamClosed, run
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.patterns import AckConsumer, AckEvent
from tests.core.recording import RecordingStore
from tests.patterns.making import some

pytestmark = pytest.mark.anyio


async def run_acking(*acked: str, recover: bool = False) -> tuple[RecordingStore, list[AckEvent]]:
    """Consume events 1 to 5, and acknowledge these, in this order, when all have been handed over."""
    seen: list[AckEvent] = []

    async def handle(event: AckEvent) -> None:
        seen.append(event)
        if len(seen) == 5:
            for number in acked:
                await seen[int(number) - 1].ack()

    store = RecordingStore()
    await run(Spec(await some(5), store, AckConsumer("c", handle), to_head=True))
    return store, seen


async def test_nothing_moves_the_cursor_without_an_acknowledgement() -> None:
    store, seen = await run_acking()
    assert [event.event.id for event in seen] == ["1", "2", "3", "4", "5"]
    assert store.sets == []


async def test_acknowledgement_is_for_all_events_before_too() -> None:
    store, _ = await run_acking("4")
    assert store.sets == ["set 4"]


async def test_acknowledgements_out_of_order_never_move_the_cursor_backwards() -> None:
    store, _ = await run_acking("2", "5", "3", "5", "1")
    assert store.sets == ["set 2", "set 5"]


async def test_cursor_is_stored_when_ack_returns() -> None:
    store = MemoryCursorStore()

    async def handle(event: AckEvent) -> None:
        await event.ack()
        assert await store.get("c") == event.event.id

    await run(Spec(await some(3), store, AckConsumer("c", handle), to_head=True))
    assert await store.get("c") == "3"


async def test_events_passed_over_move_the_cursor_only_from_an_acknowledged_one_on() -> None:
    async def ack_the_second(event: AckEvent) -> None:
        if event.event.id == "2":
            await event.ack()

    store = MemoryCursorStore()

    async def consume_up_to(last: int, wanted: set[str]) -> str:
        consumer = AckConsumer("c", ack_the_second, filter=lambda event: event.id in wanted)
        await run(Spec(await some(last), store, consumer, to_head=True))
        return await store.get("c")

    assert await consume_up_to(1, set()) == "1"
    assert await consume_up_to(4, {"2"}) == "4"
    assert await consume_up_to(7, {"6"}) == "5"


async def test_another_task_may_acknowledge() -> None:
    send, receive = anyio.create_memory_object_stream[AckEvent](10)
    store, source = MemoryCursorStore(), await some(3)

    async def ack_all() -> None:
        async for event in receive:
            await event.ack()

    async with send, receive, anyio.create_task_group() as group:
        group.start_soon(ack_all)
        group.start_soon(run, Spec(source, store, AckConsumer("c", send.send)))
        await anyio.wait_all_tasks_blocked()
        assert await store.get("c") == "3"
        group.cancel_scope.cancel()


async def test_acknowledgement_after_the_run_is_refused() -> None:
    store, seen = await run_acking("2")
    with pytest.raises(StreamClosed, match="the event will be delivered again"):
        await seen[4].ack()
    assert store.sets == ["set 2"]


async def test_event_says_which_it_is() -> None:
    _, seen = await run_acking()
    assert repr(seen[0]).startswith("AckEvent(Event(id='1'")
