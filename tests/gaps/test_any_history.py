"""Any history of writers and readers, against a list: what is delivered is what was committed, in order."""

import asyncio
import itertools

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reflex_aio import EventStream
from reflex_aio.sql import EventsTable
from tests.fix_databases import Connect
from tests.gaps.interleaving import faults
from tests.waiting import deadline

pytestmark = pytest.mark.asyncio

_WRITERS = 3
_numbers = itertools.count(1)
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["insert", "insert", "insert", "savepoint", "commit", "commit", "roll back", "read", "restart"]
        ),
        st.integers(0, _WRITERS - 1),
    ),
    max_size=40,
)


class _History:
    """A table of its own, what its writers have done, and what a reader that comes and goes has had of it."""

    def __init__(self, pool: asyncpg.Pool, writers: list[asyncpg.Connection]) -> None:
        self.events = EventsTable(f"events_{next(_numbers)}", page_size=3, poll_period=0.02)
        self.committed: list[int] = []
        self.delivered: list[int] = []
        self._pool = pool
        self._writers = writers
        self._open: dict[int, list[int]] = {}
        self._stream: EventStream | None = None

    async def do(self, step: str, number: int) -> None:
        writer = self._writers[number]
        if step in ("insert", "savepoint"):
            if number not in self._open:
                await writer.execute("BEGIN")
                self._open[number] = []
            if step == "insert":
                self._open[number].append(int(await self.events.insert(writer, 1, 1)))
            else:
                await writer.execute("SAVEPOINT s")
                await self.events.insert(writer, 1, 1)
                await writer.execute("ROLLBACK TO SAVEPOINT s")
        elif step == "commit" and number in self._open:
            await writer.execute("COMMIT")
            self.committed += self._open.pop(number)
        elif step == "roll back" and number in self._open:
            await writer.execute("ROLLBACK")
            del self._open[number]
        elif step == "read":
            await self.read()
        elif step == "restart":
            await self.close()

    async def read(self) -> None:
        """Read what is due: all that was committed; while there are writers, at the most what lies below their ids."""
        first = min((min(ids) for ids in self._open.values() if ids), default=2**62)
        due = sorted(event_id for event_id in self.committed if event_id < first)
        if self._stream is None:
            after = str(self.delivered[-1]) if self.delivered else ""
            self._stream = await self.events.stream(self._pool, after).__aenter__()
        # A writer may hold back more than its own ids: how much depends on when the stream has looked.
        patience = 0.05 if self._open else deadline(10.0)
        try:
            async with asyncio.timeout(patience):
                while self._open or len(self.delivered) < len(due):
                    self.delivered.append(int((await anext(self._stream)).id))
        except TimeoutError:
            assert self._open, faults(self.delivered, due)
        assert self.delivered == due[: len(self.delivered)], faults(self.delivered, due)

    async def close(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
async def test_what_is_delivered_is_what_was_committed(
    pool: asyncpg.Pool, connect: Connect, steps: list[tuple[str, int]]
) -> None:
    writers = [await connect() for _ in range(_WRITERS)]
    history = _History(pool, writers)
    await history.events.create(writers[0])
    try:
        for step, number in steps:
            await history.do(step, number)
        for number in range(_WRITERS):
            await history.do("commit", number)
        await history.read()
        assert history.delivered == sorted(history.committed)
    finally:
        await history.close()
        for writer in writers:
            await writer.close()
