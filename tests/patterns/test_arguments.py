"""What patterns are made with is checked when they are made."""

from typing import Any

import pytest

from reflex_aio.patterns import BatchConsumer, ConcurrentConsumer


async def ignore(events: Any) -> None: ...


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
