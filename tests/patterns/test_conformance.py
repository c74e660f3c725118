"""The sources and stores among the patterns keep the rules for sources and stores."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from reflex_aio import CursorStore, Event, MemoryCursorStore, MemoryEvents
from reflex_aio.patterns import BootstrapStore, PollSource, ReadThroughStore
from reflex_aio.testing import check_cursor_store, check_source, cursor_store_rules, source_rules

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def polling(**options: Any) -> AsyncIterator[tuple[PollSource, Any]]:
    events = MemoryEvents()

    async def page(after: str) -> Sequence[Event]:
        async with events.stream(after, to_head=True) as stream:
            return (await stream.read_page())[:3]

    yield PollSource(page, every=0.01, **options), events.insert


@pytest.mark.parametrize("rule", source_rules())
async def test_poll_source_is_a_source(rule: str) -> None:
    await check_source(polling, rules=[rule])


class NoHead(MemoryEvents):
    """Finds no cursor for anybody."""

    async def head(self) -> str:
        await anyio.lowlevel.checkpoint()
        return ""


class NowhereStore(BootstrapStore):
    """So that consumers begin without a cursor, as the rules have it."""

    async def find(self, name: str) -> str:
        await super().find(name)
        return ""


@asynccontextmanager
async def store_of(make: Callable[[], CursorStore]) -> AsyncIterator[CursorStore]:
    yield make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ReadThroughStore(MemoryCursorStore(), MemoryCursorStore()),
        lambda: NowhereStore(MemoryCursorStore(), NoHead()),
    ],
    ids=["read-through", "bootstrap"],
)
@pytest.mark.parametrize("rule", cursor_store_rules(lacks=["rewind"]))
async def test_store_before_another_is_a_cursor_store(rule: str, make: Callable[[], CursorStore]) -> None:
    await check_cursor_store(lambda: store_of(make), rules=[rule], lacks=["rewind"])
