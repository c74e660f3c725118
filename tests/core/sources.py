"""A stream whose every step a test decides."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from reflex_aio import Event, EventStream

__all__ = ["Pages", "event", "events", "ids"]

# A page to hand out, an error to raise, something to do before the next step, or None for the end.
Step: TypeAlias = Sequence[Event] | BaseException | Callable[[], Awaitable[None]] | None


def event(number: int, type: int = 1) -> Event:
    return Event(str(number), type, f"row-{number}", number * 1_000_000)


def events(first: int, last: int) -> list[Event]:
    return [event(number) for number in range(first, last + 1)]


def ids(events: Iterable[Event]) -> list[int]:
    return [int(event.id) for event in events]


class Pages(EventStream):
    """Takes one step at a read, waiting before each; after the last it waits for ever.

    :param on_open: awaited in the middle of opening
    :param on_close: awaited in the middle of closing
    """

    def __init__(
        self,
        *steps: Step,
        after: str = "",
        on_open: Callable[[], Awaitable[None]] = checkpoint,
        on_close: Callable[[], Awaitable[None]] = checkpoint,
    ) -> None:
        super().__init__(after)
        self._steps = list(steps)
        self._on_open = on_open
        self._on_close = on_close
        self.opened = 0
        self.closed = 0
        self.waiting = anyio.Event()

    async def _open(self) -> str:
        await checkpoint()
        await self._on_open()
        await checkpoint()
        self.opened += 1
        return self._after or "resolved"

    async def _read(self) -> Sequence[Event]:
        assert (self.opened, self.closed) == (1, 0)
        while True:
            await checkpoint()
            if not self._steps:
                self.waiting.set()
                await anyio.sleep_forever()
            step = self._steps[0]
            if step is None:
                return ()
            if callable(step):
                await step()
                await checkpoint()
            del self._steps[0]
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, Sequence):
                return step

    async def _close(self) -> None:
        await checkpoint()
        await self._on_close()
        await checkpoint()
        self.closed += 1
