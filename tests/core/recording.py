"""A store, hooks, a consumer and a source that write down what happens to them."""

from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from anyio.lowlevel import checkpoint

from reflex_aio import Consumer, Event, EventStream, Hooks, Lease
from reflex_aio.memory import MemoryCursorStore

__all__ = ["RecordingConsumer", "RecordingHooks", "RecordingStore", "Streams"]


class RecordingStore(MemoryCursorStore):
    """Waits in every call.

    :param log: where the calls are written down
    :param before: awaited before a call of that name takes effect
    """

    def __init__(
        self,
        log: list[str] | None = None,
        cursors: Mapping[str, str | int] = {},
        **before: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(cursors)
        self.log = [] if log is None else log
        self._before = before

    async def _called(self, name: str, told: str | None = None) -> None:
        await self._before.get(name, checkpoint)()
        self.log.append(told or name)

    async def __aenter__(self) -> Self:
        await self._called("enter")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.log.append("exit")

    async def get(self, name: str) -> str:
        await self._called("get")
        return await super().get(name)

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        await self._called("set", f"set {cursor}")
        await super().set(name, cursor, expected=expected, fence=fence)
        await checkpoint()

    async def flush(self) -> None:
        await self._called("flush")

    @property
    def sets(self) -> list[str]:
        return [told for told in self.log if told.startswith("set")]


class RecordingConsumer(Consumer):
    """Waits in its handler, and is entered for each run."""

    def __init__(self, log: list[str], **arguments: Any) -> None:
        super().__init__("c", self._record, **arguments)
        self.log = log
        self.handled: list[int] = []

    async def _record(self, event: Event) -> None:
        await checkpoint()
        self.log.append(f"handle {event.id}")
        self.handled.append(int(event.id))
        await checkpoint()

    async def __aenter__(self) -> Self:
        self.log.append("consumer entered")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self.log.append("consumer left")
        return None


class RecordingHooks(Hooks):
    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []

    def consumer_started(self, consumer: str, *, lag_alert: float | None, activity_ttl: float | None) -> None:
        self.log.append(("started", consumer, lag_alert, activity_ttl))

    def consumer_stopped(self, consumer: str, error: BaseException | None) -> None:
        self.log.append(("stopped", consumer, error))

    def consumer_restarting(self, consumer: str, error: Exception, *, expected: bool, delay: float) -> None:
        self.log.append(("restarting", consumer, error, expected, delay))

    def event_received(self, consumer: str, event: Event) -> None:
        self.log.append(("received", consumer, event.id))

    def event_skipped(self, consumer: str, event: Event) -> None:
        self.log.append(("skipped", consumer, event.id))

    def event_handled(self, consumer: str, event: Event, seconds: float) -> None:
        assert seconds >= 0
        self.log.append(("handled", consumer, event.id))

    def event_failed(self, consumer: str, event: Event, error: Exception, seconds: float) -> None:
        assert seconds >= 0
        self.log.append(("failed", consumer, event.id, error))


class Streams:
    """A source whose streams a function makes; it keeps what it was asked for."""

    def __init__(self, make: Callable[[str], EventStream]) -> None:
        self._make = make
        self.asked: list[dict[str, Any]] = []

    def stream(
        self, after: str = "", *, from_head: bool = False, to_head: bool = False, lag: float | None = None
    ) -> EventStream:
        self.asked.append({"after": after, "from_head": from_head, "to_head": to_head, "lag": lag})
        return self._make(after)

    async def head(self) -> str:
        raise NotImplementedError
