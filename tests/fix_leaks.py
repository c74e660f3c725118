"""No test leaves an asyncio task behind."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

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
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=_GRACE)
    assert not left, "tasks that the test left running:\n" + "\n".join(map(repr, left))
