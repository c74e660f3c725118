"""The sources among the patterns keep the rules for sources."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from reflex_aio import Event
from reflex_aio.memory import MemoryEvents
from reflex_aio.patterns import PollSource
from reflex_aio.testing import check_source, rules_of

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def polling(**options: Any) -> AsyncIterator[tuple[PollSource, Any]]:
    events = MemoryEvents()

    async def page(after: str) -> Sequence[Event]:
        async with events.stream(after, to_head=True) as stream:
            return (await stream.read_page())[:3]

    yield PollSource(page, every=0.01, **options), events.insert


@pytest.mark.parametrize("rule", rules_of(check_source))
async def test_poll_source_is_a_source(rule: str) -> None:
    await check_source(polling, rules=[rule])
