"""Loading pages ahead of who consumes them, without a database."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from reflex_aio import Event
from reflex_aio.sql.events.loader import Page, Position
from reflex_aio.sql.events.source import ReadAhead

pytestmark = pytest.mark.asyncio


class Loading:
    """Three pages of one event each, and what happened in which order."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.broken = False
        self.turns = 10
        """How many turns of the event loop it takes to load a page."""

    async def load(self, position: Position) -> Page:
        self.happened.append(f"{position} requested")
        for _ in range(self.turns):
            await asyncio.sleep(0)

        def make(batch: bool) -> Sequence[Event]:
            if self.broken:
                raise ValueError("no event")
            self.happened.append(f"{position} made")
            return [Event(str(position + 1), 1, "7", 0)]

        return Page(make, position + 1, position < 2, False)


@pytest.fixture
def loading() -> Loading:
    return Loading()


@pytest_asyncio.fixture
async def ahead(loading: Loading) -> AsyncIterator[ReadAhead]:
    ahead = ReadAhead(loading.load, name="pages")
    yield ahead
    await ahead.aclose()


async def test_the_next_page_is_requested_before_the_events_of_this_one_are_made(
    ahead: ReadAhead, loading: Loading
) -> None:
    for position in range(3):
        page = await ahead.page(position)
        assert [event.id for event in page.decode()] == [str(position + 1)]
    assert loading.happened == [
        "0 requested",
        "1 requested",
        "0 made",
        "2 requested",
        "1 made",
        "2 made",
    ]


async def test_a_page_whose_events_can_not_be_made_is_not_passed_over(
    ahead: ReadAhead, loading: Loading
) -> None:
    loading.broken = True
    for _ in range(2):
        with pytest.raises(ValueError, match="no event"):
            await ahead.page(0)
    loading.broken = False
    assert [event.id for event in (await ahead.page(0)).decode()] == ["1"]
    assert [event.id for event in (await ahead.page(1)).decode()] == ["2"]


@pytest.mark.parametrize("turns", range(6))
async def test_no_page_is_passed_over_however_fast_they_come(
    ahead: ReadAhead, loading: Loading, turns: int
) -> None:
    loading.turns = turns
    loading.broken = True
    with pytest.raises(ValueError, match="no event"):
        await ahead.page(0)
    loading.broken = False
    for position in range(3):
        assert [event.id for event in (await ahead.page(position)).decode()] == [str(position + 1)]
