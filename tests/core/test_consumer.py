"""Consumers check what they are made of, and hand on what their filters let through."""

import asyncio
import enum
import functools
import math
from typing import Any

import anyio
import pytest

from reflex_aio import Consumer, Event
from reflex_aio.errors import ConnectionLost, FilterError, StreamStopped
from reflex_aio.patterns import AckConsumer
from reflex_aio.sql import AtomicConsumer
from tests.core.sources import event


class UserEvent(enum.IntEnum):
    CREATED = 1
    RENAMED = 2


async def ignore(event: Event) -> None: ...


async def drive(consumer: Consumer, *events: Event) -> None:
    for each in events:
        if consumer.wants(each):
            await consumer.consume(each)


# Arguments.


@pytest.mark.parametrize("name", ["", " ", "\t\n", "a\0b", "a\ud800"])
def test_consumer_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"name .* is blank, or contains a NUL or a lone surrogate"):
        Consumer(name, ignore)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": None},
        {"name": 7},
        {"name": b"c"},
        {"handler": None},
        {"handler": "ignore"},
        {"types": 1},
        {"types": UserEvent.CREATED},
        {"filter": "x"},
        {"filter": ignore},
        {"recover": 7},
        {"lag_alert": "1"},
        {"activity_ttl": b"1"},
    ],
    ids=lambda arguments: " ".join(f"{name}={type(value).__name__}" for name, value in arguments.items()),
)
def test_argument_of_the_wrong_type_is_named(arguments: dict[str, Any]) -> None:
    [what] = arguments
    with pytest.raises(TypeError, match=rf"{what} .* is a .*: accepted is "):
        Consumer(**{"name": "c", "handler": ignore, **arguments})


@pytest.mark.parametrize("types", [[True], ["1"], [1.0], [None]])
def test_types_are_integers(types: Any) -> None:
    with pytest.raises(TypeError, match="event type"):
        Consumer("c", ignore, types=types)


def test_type_that_no_event_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="event type 2147483648 is out of range"):
        Consumer("c", ignore, types=[2**31])


@pytest.mark.parametrize("what", ["lag_alert", "activity_ttl"])
@pytest.mark.parametrize("seconds", [0, -1.0, math.nan])
def test_limit_that_is_not_above_0_is_refused(what: str, seconds: float) -> None:
    with pytest.raises(ValueError, match=f"{what} {seconds} is out of range"):
        Consumer("c", ignore, **{what: seconds})  # type: ignore[arg-type]


def test_limits_may_be_off() -> None:
    consumer = Consumer("c", ignore, lag_alert=None, activity_ttl=None)
    assert (consumer.lag_alert, consumer.activity_ttl) == (None, None)
    assert (Consumer("c", ignore).lag_alert, Consumer("c", ignore).activity_ttl) == (1800.0, 86400.0)


def test_consumer_says_who_it_is() -> None:
    assert repr(Consumer("send-email", ignore)) == "Consumer('send-email')"


# Filters.


def test_consumer_without_filters_wants_everything() -> None:
    consumer = Consumer("c", ignore)
    assert not consumer.filters
    assert consumer.wants(event(1, 1))
    assert consumer.wants(event(1, -5))


def test_types_let_through_their_own() -> None:
    consumer = Consumer("c", ignore, types={UserEvent.CREATED})
    assert consumer.filters
    assert consumer.types == {1}
    assert [consumer.wants(event(1, number)) for number in (1, 2, 0)] == [True, False, False]


def test_an_enum_stands_for_all_its_types() -> None:
    assert Consumer("c", ignore, types=UserEvent).types == {1, 2}


def test_filter_is_asked_about_events_of_the_types_only() -> None:
    asked: list[str] = []

    def is_even(event: Event) -> bool:
        asked.append(event.id)
        return int(event.id) % 2 == 0

    consumer = Consumer("c", ignore, types=[1], filter=is_even)
    assert [consumer.wants(event(n, t)) for n, t in ((1, 1), (2, 1), (4, 2))] == [False, True, False]
    assert asked == ["1", "2"]
    assert Consumer("c", ignore, filter=is_even).filters


def test_filter_that_raises_is_a_filter_error_with_its_cause() -> None:
    def fail(event: Event) -> bool:
        raise KeyError("metadata")

    with pytest.raises(FilterError, match="c: the filter failed on event 7") as caught:
        Consumer("c", ignore, filter=fail).wants(event(7))
    assert (caught.value.consumer, caught.value.event_id) == ("c", "7")
    assert isinstance(caught.value.__cause__, KeyError)


# Handling.


@pytest.mark.anyio
async def test_handler_gets_the_event() -> None:
    seen: list[Event] = []

    async def handle(event: Event) -> None:
        seen.append(event)

    await Consumer("c", handle).consume(event(7))
    assert seen == [event(7)]


@pytest.mark.anyio
async def test_what_the_handler_raises_passes_through() -> None:
    async def fail(event: Event) -> None:
        raise KeyError(event.id)

    with pytest.raises(KeyError, match="7"):
        await Consumer("c", fail).consume(event(7))


@pytest.mark.anyio
async def test_recover_makes_the_event_count_as_consumed() -> None:
    recovered: list[tuple[Event, Exception]] = []
    error = KeyError("x")

    async def fail(event: Event) -> None:
        raise error

    async def recover(event: Event, error: Exception) -> None:
        recovered.append((event, error))

    await Consumer("c", fail, recover=recover).consume(event(7))
    assert recovered == [(event(7), error)]


@pytest.mark.anyio
async def test_what_recover_raises_goes_before_what_the_handler_raised() -> None:
    async def fail(event: Event) -> None:
        raise KeyError("first")

    async def fail_too(event: Event, error: Exception) -> None:
        raise OSError("second")

    with pytest.raises(OSError, match="second") as caught:
        await Consumer("c", fail, recover=fail_too).consume(event(7))
    assert isinstance(caught.value.__context__, KeyError)


@pytest.mark.anyio
async def test_recover_is_not_asked_about_a_cancellation() -> None:
    async def recover(event: Event, error: Exception) -> None:
        pytest.fail("asked")

    async def wait(event: Event) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0) as scope:
        await Consumer("c", wait, recover=recover).consume(event(7))
    assert scope.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.anyio
async def test_recover_is_not_asked_about_a_clean_up_that_fails_in_a_cancellation() -> None:
    async def recover(event: Event, error: Exception) -> None:
        pytest.fail("asked")

    async def fail_to_clean_up(event: Event) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("clean-up")

    task = asyncio.create_task(Consumer("c", fail_to_clean_up, recover=recover).consume(event(7)))
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    with pytest.raises(OSError, match="clean-up"):
        await task


# Handlers that aren't async functions.


class _Plain:
    def handle(self, *args: Any) -> None: ...


def _plain(*args: Any) -> None: ...


@pytest.mark.parametrize("function", [_plain, _Plain().handle, functools.partial(_plain, 1), print])
@pytest.mark.parametrize("argument", ["handler", "recover"])
@pytest.mark.parametrize("kind", [Consumer, AckConsumer, AtomicConsumer])
def test_a_plain_function_is_refused_when_the_consumer_is_made(
    kind: Any, argument: str, function: Any
) -> None:
    arguments = {"handler": ignore, argument: function}
    with pytest.raises(TypeError, match=f"{argument} .* accepted is an async function"):
        kind("c", **arguments)


@pytest.mark.asyncio
async def test_a_handler_whose_result_can_not_be_awaited_is_named() -> None:
    returns_none: Any = lambda event: None  # noqa: E731
    with pytest.raises(
        TypeError, match=r"handler <function .*<lambda> .* returned None, .* accepted is an async"
    ):
        await drive(Consumer("c", returns_none), event(1))


@pytest.mark.asyncio
async def test_a_function_that_returns_what_an_async_function_returned_is_accepted() -> None:
    handled: list[str] = []

    async def handle(prefix: str, event: Event) -> None:
        handled.append(prefix + event.id)

    @functools.wraps(handle)
    def wrapper(event: Event) -> Any:
        return handle("wrapped", event)

    class Handler:
        async def __call__(self, event: Event) -> None:
            await handle("object", event)

    for handler in (
        functools.partial(handle, "partial"),
        lambda event: handle("lambda", event),
        wrapper,
        Handler(),
    ):
        await drive(Consumer("c", handler), event(1))
    assert handled == ["partial1", "lambda1", "wrapped1", "object1"]


@pytest.mark.parametrize("error", [StreamStopped(), ConnectionLost("lost")])
@pytest.mark.asyncio
async def test_an_expected_error_is_not_recovered_from(error: Exception) -> None:
    async def handle(event: Event) -> None:
        raise error

    async def recover(event: Event, error: Exception) -> None: ...

    with pytest.raises(type(error)):
        await drive(Consumer("c", handle, recover=recover), event(1))
