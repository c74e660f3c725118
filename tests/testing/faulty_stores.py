"""Cursor stores with one fault each."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Self

from anyio.lowlevel import checkpoint

from reflex_aio import CursorConflict, CursorStore, Lease
from reflex_aio.memory import MemoryCursorStore

Faulty = Callable[[], AbstractAsyncContextManager[CursorStore]]

FAULTS: list[tuple[str, Faulty]] = []


def caught_by(rule: str) -> Callable[[Any], Any]:
    """Add a fault, and the rule that has to tell of it."""

    def add(kind: Any) -> Any:
        @asynccontextmanager
        async def make() -> AsyncIterator[CursorStore]:
            yield kind()

        make.__name__ = kind.__name__
        FAULTS.append((rule, make))
        return kind

    return add


@caught_by("store_is_a_cursor_store")
class HasNoFlush:
    def __init__(self) -> None:
        store = MemoryCursorStore()
        self.get, self.set, self.all = store.get, store.set, store.all


@caught_by("new_consumer_has_no_cursor")
class BeginsAtZero(MemoryCursorStore):
    async def get(self, name: str) -> str:
        return await super().get(name) or "0"


class WritesBehind(MemoryCursorStore):
    """Keeps cursors apart until they are flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: dict[str, str] = {}

    async def flush(self) -> None:
        self.stored |= await super().all()

    async def all(self) -> Mapping[str, str]:
        return dict(self.stored)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.flush()


@caught_by("cursor_is_where_it_was_set")
class GetsWhatIsStored(WritesBehind):
    async def get(self, name: str) -> str:
        return self.stored.get(name, "")


@caught_by("consumers_are_apart")
class KeepsOneCursor(MemoryCursorStore):
    async def get(self, name: str) -> str:
        return next(iter((await self.all()).values()), "")


@caught_by("consumers_are_apart")
class NamesWithoutCase(MemoryCursorStore):
    async def get(self, name: str) -> str:
        return await super().get(name.lower())

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        stored = await self.get(name)
        if stored and cursor.isdecimal() and int(cursor) < int(stored):
            await self.rewind(name.lower(), cursor)
        await super().set(name.lower(), cursor, expected=expected)


@caught_by("flushed_cursors_are_stored")
class FlushesNothing(WritesBehind):
    async def flush(self) -> None:
        """Forgotten."""


@caught_by("flushed_cursors_are_stored")
class FlushesOneConsumer(WritesBehind):
    async def flush(self) -> None:
        cursors = await MemoryCursorStore.all(self)
        self.stored |= dict(list(cursors.items())[:1])


@caught_by("leaving_stores_the_cursors")
class ForgetsToFlushOnLeaving(WritesBehind):
    async def __aexit__(self, *exc: object) -> None:
        """Forgotten."""


@caught_by("leaving_stores_the_cursors")
class IsClosedByTheFirstToLeave(WritesBehind):
    closed = False

    async def __aexit__(self, *exc: object) -> None:
        await super().__aexit__(*exc)
        self.closed = True

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        if self.closed:
            raise RuntimeError("closed")
        await super().set(name, cursor, expected=expected, fence=fence)


@caught_by("result_of_all_does_not_change")
class HandsOutItsDictionary(MemoryCursorStore):
    async def all(self) -> Mapping[str, str]:
        return self._cursors


@caught_by("setting_the_same_cursor_is_no_error")
class RefusesToStay(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        if (stored := await self.get(name)) == cursor:
            raise CursorConflict(consumer=name, stored=stored, given=cursor)
        await super().set(name, cursor, expected=expected, fence=fence)


@caught_by("cursor_does_not_move_backwards")
class MovesBackwards(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        if not isinstance(cursor, str):
            raise TypeError
        stored = await self.get(name)
        if expected is not None and stored != expected:
            raise CursorConflict(consumer=name, stored=stored, given=cursor, expected=expected)
        await self.rewind(name, cursor)


@caught_by("cursor_does_not_move_backwards")
class MovesAndThenComplains(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        try:
            await super().set(name, cursor, expected=expected, fence=fence)
        except CursorConflict:
            await self.rewind(name, cursor)
            raise


@caught_by("cursor_does_not_move_backwards")
class TellsNotWhereItIs(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        try:
            await super().set(name, cursor, expected=expected, fence=fence)
        except CursorConflict as exc:
            raise CursorConflict(consumer=name, stored="", given=cursor, expected=expected) from exc


@caught_by("numbers_are_compared_by_their_values")
class ComparesText(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        stored = await self.get(name)
        if isinstance(cursor, str) and cursor < stored:
            raise CursorConflict(consumer=name, stored=stored, given=cursor, expected=expected)
        await super().set(name, cursor, expected=expected, fence=fence)


@caught_by("unexpected_cursor_does_not_move")
class IgnoresExpected(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        await super().set(name, cursor, fence=fence)


@caught_by("unexpected_cursor_does_not_move")
class TakesNowhereForAnywhere(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        await super().set(name, cursor, expected=expected or None, fence=fence)


@caught_by("expected_cursor_moves")
class TakesNowhereForZero(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        await super().set(name, cursor, expected="0" if expected == "" else expected, fence=fence)


@caught_by("expected_cursor_does_not_move_backwards")
class GoesBackIfExpected(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        if expected is not None and expected == await self.get(name):
            await self.rewind(name, cursor)
        await super().set(name, cursor, expected=expected and cursor, fence=fence)


class ReadsAndThenWrites(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        stored = await self.get(name)
        await MemoryCursorStore({name: stored}).set(name, cursor, expected=expected, fence=fence)
        # Others may read meanwhile what is about to be written over.
        for _ in range(int(cursor) % 3 + 1):
            await checkpoint()
        await self.rewind(name, cursor)


caught_by("greatest_of_concurrent_cursors_is_stored")(ReadsAndThenWrites)
caught_by("one_of_concurrent_sets_with_the_same_expectation_succeeds")(ReadsAndThenWrites)


@caught_by("cancelled_set_is_done_or_not")
class RemovesAndThenInserts(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        stored = await self.get(name)
        await MemoryCursorStore({name: stored}).set(name, cursor, expected=expected, fence=fence)
        await self.rewind(name, "")
        await checkpoint()
        await self.rewind(name, cursor)


@caught_by("cancelled_set_is_done_or_not")
class StaysLockedWhenCancelled(MemoryCursorStore):
    locked = False

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        if self.locked:
            raise RuntimeError("locked")
        self.locked = True
        await checkpoint()
        self.locked = False
        await super().set(name, cursor, expected=expected, fence=fence)


@caught_by("invalid_cursor_is_refused")
class TakesIntegers(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        await super().set(name, str(cursor), expected=expected)


@caught_by("fence_is_not_ignored")
class IgnoresFences(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        await super().set(name, cursor, expected=expected)


@caught_by("rewind_moves_it_anywhere")
class RewindsForwardOnly(MemoryCursorStore):
    async def rewind(self, name: str, cursor: str) -> None:
        await self.set(name, cursor)
