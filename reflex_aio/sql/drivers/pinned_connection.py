"""A connection of the user's pool that is kept between statements while the pool has others to spare."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple, Unpack

from reflex_aio.errors import ConnectionLost
from reflex_aio.sql.drivers.base import Driver, Row, describe_timeout
from reflex_aio.tasks import Tasks, shielded

__all__ = ["PinnedConnection"]

T = TypeVar("T")
Args = TypeVarTuple("Args")

# The interval of checks whether the pool needs the connection, while no statement is running, in seconds.
_CHECK_INTERVAL = 0.05
# The longest time that the connection is kept without a statement, in seconds.
_KEEP = 5.0


class PinnedConnection:
    """Runs statements on a pool, one after another, on a connection that it keeps while the pool can spare it.

    Pools reset a connection on release, with a statement as costly as those that read events. So the connection is kept
    from one statement to the next, but only while the pool has others to give and is not closing. A call of
    ``pool.close()`` waits for it for a few hundredths of a second at most.

    After a statement that fails or is cancelled its connection is released, as the state of the session is unknown.

    :param table: the table's name, for messages
    :param timeout: the time limit of one use, acquiring the connection included, in seconds. This is the one place
        where it is enforced for streams
    :param reserve: once the pool could spare the connection, keep it, whether or not the pool needs it later
    """

    def __init__(
        self, driver: Driver, pool: Any, *, table: str, timeout: float, reserve: bool = False
    ) -> None:
        self._driver = driver
        self._pool = pool
        self._table = table
        self._timeout = timeout
        self._reserve = reserve
        self._connection: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self._tasks = Tasks()
        self._watched = False
        self._has_spare = False
        self._used_at = 0.0

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """Run one statement in a transaction of its own and return the rows. Raises as :meth:`use` does."""
        return await self.use(self._driver.fetch, sql, *args)

    async def use(self, work: Callable[[Any, Unpack[Args]], Awaitable[T]], *args: *Args) -> T:
        """Return the result of ``work(connection, *args)``. After an error the connection is released.

        :raises ConnectionLost: if the server cannot be reached, or ``work`` exceeds the time limit
        :raises ReflexError: for the other errors of the database, see :meth:`Driver.translate`
        """
        async with self._lock:
            limit = asyncio.timeout(self._timeout)
            try:
                async with limit:
                    loop = asyncio.get_running_loop()
                    if self._connection is not None and self._driver.is_closed(self._connection):
                        # By the server, between statements: an idle timeout, or a restart.
                        await self._release(broken=True)
                    if self._connection is None:
                        self._connection, self._loop = await self._driver.checkout(self._pool), loop
                    # Run while the server works on the statement: it must not delay the result.
                    loop.call_soon(self._check_spare)
                    result = await work(self._connection, *args)
            except BaseException as exc:
                acquired = self._connection is not None
                if acquired:
                    await self._release(broken=True, timed_out=limit.expired())
                if isinstance(exc, TimeoutError) and limit.expired():
                    raise ConnectionLost(
                        f"{self._table}: {describe_timeout(acquired, self._timeout)}"
                    ) from exc
                # Translated here, once for all statements of streams.
                if isinstance(exc, Exception) and (error := self._driver.translate(exc, self._table)):
                    raise error from exc
                raise
            self._used_at = loop.time()
            if not self._has_spare:
                await self._release()
            elif not self._watched and not self._reserve:
                self._watched = True
                self._tasks.start(self._watch(), name=f"reflex_aio: release of a connection ({self._table})")
            return result

    def _check_spare(self) -> None:
        if not (self._reserve and self._has_spare):
            self._has_spare = self._driver.has_spare(self._pool)

    def release_soon(self) -> None:
        """Have the connection released, if there is one: no statement will be run for a while."""
        self._used_at = -math.inf

    async def aclose(self) -> None:
        """Release the connection, also if cancelled meanwhile. A later use acquires one again."""
        await shielded(self._close())

    async def _close(self) -> None:
        await self._tasks.aclose()
        self._watched = False
        async with self._lock:
            await self._release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while self._connection is not None:
                await asyncio.sleep(_CHECK_INTERVAL)
                if self._lock.locked():
                    continue
                if clock() - self._used_at > _KEEP or not self._driver.has_spare(self._pool):
                    async with self._lock:
                        await self._release()
        finally:
            self._watched = False

    async def _release(self, *, broken: bool = False, timed_out: bool = False) -> None:
        connection, self._connection = self._connection, None
        self._has_spare = False
        # A connection of an event loop that has ended cannot be released in another loop.
        if connection is not None and self._loop is asyncio.get_running_loop():
            await shielded(self._driver.release(self._pool, connection, broken=broken, timed_out=timed_out))
