"""Loading pages one after the other, each while the one before is consumed."""

import asyncio
from collections.abc import Awaitable, Callable

from reflex_aio.sql.events.loader import Page, Position
from reflex_aio.tasks import Tasks

__all__ = ["ReadAhead"]


class ReadAhead:
    """Has the server at work on the next page before the last one is handed out. For one reader.

    A consumer that never waits lets no task run until it is through with its page. So where a page was waited for, the
    one after it is requested as soon as it is there, before the reader goes on.

    :param load: loads the page after a position
    :param name: what the tasks are called that load
    """

    def __init__(self, load: Callable[[Position], Awaitable[Page]], *, name: str) -> None:
        self._load = load
        self._name = name
        self._tasks = Tasks()
        self._next: asyncio.Task[Page] | None = None
        self._next_after: Position = 0
        self._following: asyncio.Task[Page] | None = None
        self._awaited = False

    async def page(self, position: Position, *, batch: bool = False) -> Page:
        """Return the page after ``position``, where the last one has ended; see :meth:`Page.made` for ``batch``.

        A page that was being loaded when this was cancelled is left to the next call; after an error it is loaded anew.
        """
        if self._next is None or self._next_after != position:
            # What was loaded after another position must not be taken for what comes after this one.
            self._next, self._next_after, self._following = self._start(position), position, None
        self._awaited = True
        try:
            page = await asyncio.shield(self._next)
        finally:
            self._awaited = False
        # Made here, with the request for the next page under way, and while this one is still to be had again.
        page.made(batch=batch)
        self._next, self._next_after, self._following = self._following, page.position, None
        if page.more and self._next is None:
            self._next = self._start(page.position)
        return page

    async def aclose(self) -> None:
        """Load no more."""
        await self._tasks.aclose()

    def _start(self, position: Position) -> asyncio.Task[Page]:
        loading = self._tasks.start(self._go_on(position), name=self._name, awaited=True)
        loading.add_done_callback(self._forget_failed)
        return loading

    async def _go_on(self, position: Position) -> Page:
        page = await self._load(position)
        # Only of the page that is waited for: the one that follows it may be there before the reader goes on, and what
        # follows that would take its place.
        if page.more and self._awaited and asyncio.current_task() is self._next:
            # Started before the reader goes on, as tasks take turns.
            self._following = self._start(page.position)
        return page

    def _forget_failed(self, loading: asyncio.Task[Page]) -> None:
        if loading.cancelled() or loading.exception() is not None:
            if self._next is loading:
                self._next = None
            if self._following is loading:
                self._following = None
