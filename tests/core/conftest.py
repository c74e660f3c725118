"""The core runs on asyncio and on trio, and so do its tests."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from trio.testing import MockClock


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, event_loop_module: str) -> tuple[str, dict[str, Any]]:
    """Run the test on each; trio's clock jumps to the next deadline whenever all tasks wait."""
    if request.param == "trio":
        return "trio", {"clock": MockClock(autojump_threshold=0)}
    return request.param, {"use_uvloop": event_loop_module == "uvloop"}


@pytest.fixture(autouse=True)
def _core_leak_check(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("anyio") and request.getfixturevalue("anyio_backend")[0] == "asyncio":
        request.getfixturevalue("no_task_left_on_asyncio")


@pytest.fixture
async def no_task_left_on_asyncio(anyio_backend: tuple[str, dict[str, Any]]) -> AsyncIterator[None]:
    """Fail if a task that was made in the test is still there when it has ended: at once, without grace."""
    before = asyncio.all_tasks()
    yield
    left = {
        task
        for task in asyncio.all_tasks() - before - {asyncio.current_task()}
        # anyio's runner has a task for each call.
        if not getattr(task.get_coro(), "__qualname__", "").startswith("TestRunner.")
    }
    assert not left, "tasks that the test left running:\n" + "\n".join(map(repr, left))
