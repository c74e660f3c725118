"""A connection of the user's pool, kept between statements for as long as nobody else needs it."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self, TypeVar

from reflex_aio.errors import ConnectionLost
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.tasks import Tasks, shielded

__all__ = ["PinnedConnection"]

T = TypeVar("T")

# How often it is looked whether somebody else needs the connection, while no statement is under way, in seconds.
_LOOK = 0.05
# How long the connection is kept without a statement, in seconds.
_KEEP = 5.0


class PinnedConnection:
    """Runs statements on a pool, one after the other, on a connection that it gives back when that is better.

    Pools reset a connection that they get back, by a statement as costly as those that read events. So one is kept
    from statement to statement, but only while the pool has others to give and isn't closing; a user's ``pool.close()``
    waits for a few hundredths of a second at most.

    :param table: what messages call the table
    :param timeout: how long one use of the connection may take before the server counts as lost, in seconds
    """

    def __init__(self, driver: Driver, pool: Any, *, table: str, timeout: float) -> None:
        self._driver = driver
        self._pool = pool
        self._table = table
        self._timeout = timeout
        self._lent: AbstractAsyncContextManager[Any] | None = None
        self._connection: Any = None
        self._using = asyncio.Lock()
        self._keeper = Tasks()
        self._watching = False
        self._spare = False
        self._used = 0.0

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """Run one statement in a transaction of its own and return its rows. See :meth:`use` for what is raised."""

        async def statement(connection: Any) -> Sequence[Row]:
            return await self._driver.fetch(connection, sql, *args)

        return await self.use(statement)

    async def use(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Do ``work`` with the connection. If it raises or is cancelled, the connection is closed.

        :raises ConnectionLost: if the server can't be reached, or not within the time limit
        :raises ReflexError: for what else the database reports
        """
        async with self._using:
            try:
                async with asyncio.timeout(self._timeout) as limit:
                    with self._driver.errors(self._table):
                        if self._lent is None:
                            lending = self._driver.acquire(self._pool)
                            self._connection = await lending.__aenter__()
                            self._lent = lending
                        # While the server is at work: who waits for the result doesn't wait for this too.
                        asyncio.get_running_loop().call_soon(self._ask)
                        result = await work(self._connection)
            except BaseException as exc:
                lent = self._lent is not None
                await self._give_back(exc)
                if isinstance(exc, TimeoutError) and limit.expired():
                    raise self._too_late(lent) from exc
                raise
            self._used = asyncio.get_running_loop().time()
            if not self._spare:
                await self._give_back()
            elif not self._watching:
                self._watching = True
                self._keeper.start(self._watch(), name=f"reflex_aio: give back a connection ({self._table})")
            return result

    def _ask(self) -> None:
        self._spare = self._driver.can_spare(self._pool)

    def release_soon(self) -> None:
        """Don't keep the connection, if there is one: nothing is to be run for a while."""
        self._used = -math.inf

    async def aclose(self) -> None:
        """Give back the connection, also when cancelled meanwhile. It may be borrowed again."""
        await shielded(self._close())

    async def _close(self) -> None:
        await self._keeper.aclose()
        self._watching = False
        async with self._using:
            await self._give_back()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while self._lent is not None:
                await asyncio.sleep(_LOOK)
                if self._using.locked():
                    continue
                if clock() - self._used > _KEEP or not self._driver.can_spare(self._pool):
                    async with self._using:
                        await self._give_back()
        finally:
            self._watching = False

    def _too_late(self, lent: bool) -> ConnectionLost:
        # Of a pool it isn't known whether it waits for the server, or for somebody who uses its last connection.
        what = "the database has not answered" if lent else "no connection of the pool was to be had"
        return ConnectionLost(f"{self._table}: {what} within {self._timeout:g} s")

    async def _give_back(self, exc: BaseException | None = None) -> None:
        lent, self._lent, self._connection = self._lent, None, None
        if lent is None:
            return
        try:
            await shielded(lent.__aexit__(None if exc is None else type(exc), exc, None))
        except BaseException as again:
            # The context raises what it was left with; so does the caller of this.
            if again is not exc:
                raise
