"""What patterns are made with is checked when they are made."""

from collections.abc import Callable
from typing import Any

import pytest

from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.patterns import (
    BatchConsumer,
    ConcurrentConsumer,
    DeadLetterConsumer,
    PollSource,
    retrying,
    shards,
)
from reflex_aio.patterns.parallel import shard_of


async def ignore(events: Any) -> Any: ...


def test_batch_without_a_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="size and age are both None"):
        BatchConsumer("c", ignore)


@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        ({"size": 0}, ValueError),
        ({"size": -1}, ValueError),
        ({"size": 1.5}, TypeError),
        ({"size": True}, TypeError),
        ({"age": 0}, ValueError),
        ({"age": 0.0, "size": 0}, ValueError),
        ({"age": -1.0}, ValueError),
        ({"age": float("inf")}, ValueError),
        ({"age": float("nan")}, ValueError),
        ({"age": "1"}, TypeError),
    ],
)
def test_limit_that_is_out_of_range_is_refused(limits: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match="accepted is"):
        BatchConsumer("c", ignore, **limits)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"limit": 0}, ValueError),
        ({"limit": 1.0}, TypeError),
        ({"limit": True}, TypeError),
        ({"limit": 5, "window": 4}, ValueError),
        ({"limit": 5, "window": None}, TypeError),
        ({"limit": 5, "ordered_by": 7}, TypeError),
    ],
)
def test_concurrency_that_makes_no_sense_is_refused(arguments: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match="accepted is"):
        ConcurrentConsumer("c", ignore, **arguments)


STORE, SOURCE = MemoryCursorStore(), MemoryEvents()


class Recorder:
    async def record(self, **_: Any) -> None: ...


@pytest.mark.parametrize(
    "build",
    [
        lambda: DeadLetterConsumer("c", ignore, Recorder(), retries=-1),
        lambda: retrying(ignore, retries=-1),
        lambda: shards("c", 0),
        lambda: shard_of(b"a", 0),
        lambda: PollSource(ignore, every=0),
        lambda: PollSource(ignore, every=-1.0),
    ],
)
def test_number_out_of_range_is_refused(build: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="is out of range: accepted is"):
        build()


# What is built of an Any.
WRONG: Any = 7


@pytest.mark.parametrize(
    "build",
    [
        lambda: DeadLetterConsumer("c", ignore, Recorder(), retries=WRONG / 2),
        lambda: DeadLetterConsumer("c", ignore, WRONG, retries=0),
        lambda: retrying(WRONG, retries=1),
        lambda: retrying(ignore, retries=WRONG / 2),
        lambda: shards("c", WRONG / 2),
        lambda: shard_of(WRONG, 1),
        lambda: PollSource(WRONG),
        lambda: PollSource(ignore, every=None),  # type: ignore[arg-type]
    ],
)
def test_argument_of_the_wrong_type_is_refused(build: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="accepted is"):
        build()


def test_shards_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="the same name for two shards"):
        shards("c", 2, format_name=lambda name, number, count: name)
