"""No test leaves an asyncio task behind."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from reflex_aio.sql.wakeups.postgres_notifier import close_notifiers
from tests.waiting import deadline

# Seconds for tasks that are already ending, like those of a closed gRPC channel.
_GRACE = 1.0


@pytest.fixture(autouse=True)
def _leak_check(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("asyncio"):
        # First of all fixtures, so that it ends last.
        request.getfixturevalue("no_task_left")


@pytest_asyncio.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fail if a task that was made in the test, or in its fixtures, is still running when they have ended."""
    before = asyncio.all_tasks()
    yield
    # They would rest by themselves, after a while.
    await close_notifiers()
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=deadline(_GRACE))
    told = "\n".join(f"{task!r}, which waits at\n{_where(task)}" for task in left)
    assert not left, f"tasks that the test left running:\n{told}"


def _where(task: asyncio.Task[Any]) -> str:
    """Each await that the task is in, the innermost last. (``Task.get_stack`` has the outermost alone.)"""
    lines = []
    coroutine: Any = task.get_coro()
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}")
        coroutine = coroutine.cr_await
    return "\n".join(lines)
