"""psycopg 3: its asynchronous connections, pools, errors and transaction ends."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, WeakSet, ref

try:
    import psycopg
    import psycopg_pool
    from psycopg import errors, postgres, pq, rows, waiting
    from psycopg.adapt import AdaptersMap, Dumper
    from psycopg.types.array import register_all_arrays
    from psycopg.types.datetime import TimestamptzBinaryLoader
    from psycopg.types.string import StrDumperUnknown
except ImportError as exc:
    # Not only ModuleNotFoundError: psycopg raises ImportError if there is no libpq.
    raise ModuleNotFoundError(
        f"this driver needs psycopg and psycopg_pool: pip install 'reflex-aio[psycopg]' ({exc})",
        name=exc.name,
    ) from exc

from reflex_aio.errors import ConnectionLost, DatabaseError, ReflexError, SchemaError, TableNotFound
from reflex_aio.sql.drivers.base import (
    Driver,
    ListenConnection,
    Row,
    already_in_transaction,
    keep_alive,
)
from reflex_aio.sql.drivers.psycopg_listen import Address, PsycopgListenConnection, socket_of
from reflex_aio.tasks import shielded

__all__ = ["PsycopgDriver"]

# The time limit for the release of a connection, for cancelling a statement, and for closing a pool, in seconds.
_RELEASE_TIMEOUT = 1.0
# Seconds. libpq accepts whole ones.
_CONNECT_TIMEOUT = 10
# The interval at which psycopg checks a connection that it waits for, in seconds.
_WAIT_INTERVAL = 0.1

_IDLE = pq.TransactionStatus.IDLE
_ACTIVE = pq.TransactionStatus.ACTIVE
_IN_PIPELINE = pq.PipelineStatus.ON

_LOCK_CONFLICTS = (errors.DeadlockDetected, errors.LockNotAvailable, errors.SerializationFailure)
# The SQLSTATEs, and the class of them, with which the server ends or refuses a connection.
_LOST = frozenset({"53300", "57P01", "57P02", "57P03", "57P05", "25P03"})
_LOST_CLASS = "08"


class PsycopgDriver(Driver):
    """Connections and pools of psycopg 3."""

    name: ClassVar[str] = "psycopg"
    dialect: ClassVar[str] = "postgres"
    tracks_transactions: ClassVar[bool] = True
    can_listen: ClassVar[bool] = True

    # The objects of this driver.

    def is_connection(self, candidate: object) -> bool:
        return isinstance(candidate, psycopg.AsyncConnection)

    def is_pool(self, candidate: object) -> bool:
        return isinstance(candidate, psycopg_pool.AsyncConnectionPool)

    def is_closed(self, connection: Any) -> bool:
        return bool(connection.closed)

    def underlying(self, connection: Any) -> Any:
        return connection

    # Statements.

    async def fetch(self, connection: Any, sql: str, *args: Any) -> Sequence[Row]:
        cursor = _Cursor(connection)
        # In binary form, which no setting of the session changes.
        await cursor.execute(sql, args, binary=True)
        if cursor.pgresult is None:
            # In a pipeline, the result has not been read yet.
            try:
                return await cursor.fetchall()
            except psycopg.ProgrammingError:
                # Raised as well if there is a result without rows.
                if cursor.description is not None or not cursor.statusmessage:
                    raise
        return () if cursor.description is None else await cursor.fetchall()

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[None]:
        transaction: AbstractAsyncContextManager[None] = connection.transaction()
        return transaction

    def begin(self, connection: Any) -> AbstractAsyncContextManager[None]:
        if connection.pgconn.transaction_status != _IDLE:
            raise already_in_transaction(connection)
        return self.transaction(connection)

    # Errors.

    def translate(self, exc: Exception, table: str, *, schema_only: bool = False) -> ReflexError | None:
        if isinstance(exc, (errors.UndefinedColumn, errors.DatatypeMismatch)):
            return SchemaError(
                table=table, differences=[f"{_text(exc)} (validate() compares the whole table)"]
            )
        # The missing table may be another one, such as one that a trigger uses.
        if isinstance(exc, errors.UndefinedTable) and table in str(exc):
            return TableNotFound(table=table)
        if schema_only:
            return None
        if isinstance(exc, (OSError, EOFError)) or _is_lost(exc):
            return ConnectionLost(f"{table}: the database can't be reached: {_text(exc)}")
        if isinstance(exc, psycopg_pool.PoolClosed) and "closed" in str(exc):
            return DatabaseError(f"{table}: the pool is closed")
        if isinstance(exc, psycopg.Error):
            return DatabaseError(
                f"{table}: {_text(exc)}",
                sqlstate=exc.sqlstate,
                lock_conflict=isinstance(exc, _LOCK_CONFLICTS),
            )
        return None

    # Pools.

    async def open_pool(self, dsn: str, *, size: int) -> Any:
        try:
            psycopg.conninfo.conninfo_to_dict(dsn)
        except psycopg.ProgrammingError:
            # psycopg's message may contain a part of the password.
            raise ValueError("the DSN's port or one of its parameters can't be read") from None
        arguments: dict[str, Any] = {"connect_timeout": _CONNECT_TIMEOUT}
        # The pool would try again for a while, and not raise the reason for a failure.
        first = await psycopg.AsyncConnection.connect(dsn, **arguments)
        await first.close()
        arguments["autocommit"] = True
        connections: WeakSet[Any] = WeakSet()

        async def configure(connection: Any) -> None:
            connections.add(connection)
            with socket_of(connection) as connected:
                keep_alive(connected)

        pool = psycopg_pool.AsyncConnectionPool(
            dsn, min_size=1, max_size=size, open=False, configure=configure, kwargs=arguments
        )
        await pool.open(wait=True, timeout=_CONNECT_TIMEOUT)
        _own_pools[pool] = connections
        return pool

    async def close_pool(self, pool: Any) -> None:
        await pool.close(timeout=_RELEASE_TIMEOUT)
        for connection in tuple(_own_pools.pop(pool, ())):
            await connection.close()

    async def checkout(self, pool: Any) -> Any:
        while True:
            connection = await pool.getconn()
            # A lost connection is noticed when it is read, as the pool does not watch its idle connections.
            with suppress(psycopg.OperationalError):
                # The first call reads the server's last message, the second one the end.
                connection.pgconn.consume_input()
                connection.pgconn.consume_input()
            if not connection.closed:
                break
            await shielded(pool.putconn(connection))
        wait = _Wait.of(connection)
        wait.autocommit = connection.autocommit
        if not connection.autocommit:
            # Otherwise each statement would begin a transaction. This takes no round trip.
            try:
                await connection.set_autocommit(True)
            except BaseException:
                await shielded(self.release(pool, connection, broken=True))
                raise
        return connection

    async def release(
        self, pool: Any, connection: Any, *, broken: bool = False, timed_out: bool = False
    ) -> None:
        wait = _Wait.of(connection)
        autocommit, wait.autocommit = wait.autocommit, None
        wait.remove_if_unused()
        with suppress(TimeoutError, OSError, psycopg.Error):
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                if broken or autocommit is None:
                    await connection.close()
                elif not autocommit:
                    await connection.set_autocommit(False)
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                await pool.putconn(connection)
        except (TimeoutError, OSError, ValueError, psycopg.Error):
            # ValueError: it was returned already.
            await connection.close()

    def has_spare(self, pool: Any) -> bool:
        if pool.closed:
            return False
        stats = pool.get_stats()
        if stats["requests_waiting"]:
            return False
        # A pool without a maximum keeps no idle connections.
        return bool(stats["pool_available"] > 0 or not pool.max_size or stats["pool_size"] < pool.max_size)

    # Wake-ups.

    def after_transaction(self, connection: Any, key: Hashable, call: Callable[[], None]) -> bool:
        if _may_be_in_transaction(connection):
            _Wait.of(connection).calls[key] = call
        else:
            call()
        return True

    def in_transaction(self, connection: Any) -> bool:
        return not connection.closed and _may_be_in_transaction(connection)

    async def server(self, connection: Any) -> Hashable:
        info = connection.info
        return (info.host, info.port), info.user, info.dbname

    async def connector(self, connection: Any) -> Callable[[], Awaitable[Any]]:
        return Address(connection).connect

    async def listen_connection(self, connection: Any) -> ListenConnection:
        return await PsycopgListenConnection.wrap(connection)


class _Wait:
    """An object in place of the method ``wait`` of one connection, by which psycopg waits for the server.

    psycopg has no hook for a commit. But it waits after each statement, and the connection knows then whether it is in
    a transaction. So neither the text nor the sender of the last statement matters: ``commit()``, the end of
    ``connection.transaction()``, a COMMIT as text, the rollback of a pool.

    In a pipeline the state is that of the last synchronization. So the functions are called whenever a transaction may
    have ended, and kept until the pipeline has ended.

    While we have the connection of a pool, a cancelled statement is given up within a second or two. psycopg itself
    waits for several seconds, and before 3.3 without a limit, for a server that does not answer.

    It must not keep the connection alive.
    """

    __slots__ = ("_connection", "autocommit", "calls")

    def __init__(self, connection: Any) -> None:
        self._connection = ref(connection)
        self.autocommit: bool | None = None
        """The connection's mode before it was acquired from its pool; ``None`` if it was not."""
        self.calls: dict[Hashable, Callable[[], None]] = {}
        """The functions to call after the transaction."""

    @classmethod
    def of(cls, connection: Any) -> "_Wait":
        """Return the object of ``connection``, which is installed if it has none."""
        wait = connection.__dict__.get("wait")
        if not isinstance(wait, cls):
            wait = connection.wait = cls(connection)
        return wait

    def remove_if_unused(self) -> None:
        connection = self._connection()
        if self.autocommit is None and not self.calls and connection is not None:
            connection.__dict__.pop("wait", None)

    async def __call__(self, generator: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        connection = self._connection()
        if connection is None:
            raise ReferenceError("the connection no longer exists")
        try:
            if self.autocommit is None:
                return await type(connection).wait(connection, generator, *args, **kwargs)
            return await self._wait(connection.pgconn, connection, generator, *args, **kwargs)
        finally:
            if self.calls and connection.pgconn.transaction_status in (_IDLE, pq.TransactionStatus.UNKNOWN):
                self._call(connection)

    async def _wait(
        self,
        pgconn: Any,
        connection: Any,
        generator: Generator[Any, Any, Any],
        interval: float = _WAIT_INTERVAL,
    ) -> Any:
        try:
            return await waiting.wait_async(generator, pgconn.socket, interval=interval)
        except asyncio.CancelledError:
            if pgconn.transaction_status == _ACTIVE:
                await shielded(_give_up(connection, generator))
            raise

    def _call(self, connection: Any) -> None:
        calls = tuple(self.calls.values())
        if connection.pgconn.pipeline_status != _IN_PIPELINE:
            self.calls.clear()
            self.remove_if_unused()
        for call in calls:
            call()


async def _give_up(connection: Any, generator: Generator[Any, Any, Any]) -> None:
    """Cancel the statement that runs on ``connection``; close the connection if it does not end."""
    pgconn = connection.pgconn
    try:
        async with asyncio.timeout(_RELEASE_TIMEOUT):
            await connection.cancel_safe(timeout=_RELEASE_TIMEOUT)
            await waiting.wait_async(generator, pgconn.socket, interval=_WAIT_INTERVAL)
    except (TimeoutError, OSError, psycopg.Error):
        pass
    if pgconn.transaction_status == _ACTIVE:
        pgconn.finish()


class _Cursor(psycopg.AsyncRawCursor[tuple[Any, ...]]):
    """A cursor with ``$1`` as placeholder. The connection's row factory and adapters do not affect it."""

    __slots__ = ()

    def __init__(self, connection: Any) -> None:
        super().__init__(connection, row_factory=rows.tuple_row)
        self._adapters = _adapters
        self._reset()


class _Inferred(Dumper):
    """A dumper of values as text, whose type the server infers from the statement."""

    oid = 0

    def dump(self, obj: Any) -> bytes:
        return _as_text(obj).encode()


class _InferredArray(Dumper):
    """A dumper of arrays as text."""

    oid = 0

    def dump(self, obj: Any) -> bytes:
        return f"{{{','.join(map(_element, obj))}}}".encode()


class _Utc(TimestamptzBinaryLoader):
    """A loader of timestamps in UTC, whatever the session's time zone is; of infinite ones as asyncpg has them."""

    def load(self, data: Any) -> datetime:
        value = bytes(data)
        if value in (_INFINITE, _MINUS_INFINITE):
            return _LATEST if value == _INFINITE else _EARLIEST
        return super().load(data).astimezone(UTC)


_LATEST = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
_EARLIEST = datetime(1, 1, 1, tzinfo=UTC)
_INFINITE = b"\x7f" + b"\xff" * 7
_MINUS_INFINITE = b"\x80" + b"\x00" * 7


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "t" if value else "f"
    return repr(float(value)) if isinstance(value, float) else str(int(value))


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, (int, float)):
        return _as_text(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f'"\\\\x{value.hex()}"'
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _make_adapters() -> AdaptersMap:
    # Not from psycopg.adapters, which programs may change.
    adapters = AdaptersMap(types=postgres.types)
    postgres.register_default_adapters(adapters)
    register_all_arrays(adapters)
    for scalar in (bool, int, float):
        adapters.register_dumper(scalar, _Inferred)
    adapters.register_dumper(str, StrDumperUnknown)
    adapters.register_dumper(list, _InferredArray)
    adapters.register_dumper(tuple, _InferredArray)
    adapters.register_loader("timestamptz", _Utc)
    return adapters


_adapters = _make_adapters()


def _may_be_in_transaction(connection: Any) -> bool:
    pgconn = connection.pgconn
    return bool(pgconn.transaction_status != _IDLE or pgconn.pipeline_status == _IN_PIPELINE)


def _is_lost(exc: Exception) -> bool:
    if not isinstance(exc, psycopg.Error) or isinstance(exc, psycopg_pool.PoolClosed):
        return False
    state = exc.sqlstate
    if state is None:
        return isinstance(exc, psycopg.OperationalError)
    return state in _LOST or state.startswith(_LOST_CLASS)


def _text(exc: Exception) -> str:
    # libpq adds the line of the statement, and a caret below it.
    diagnosed = exc.diag.message_primary if isinstance(exc, psycopg.Error) else None
    return diagnosed or str(exc).strip() or type(exc).__name__


# The pools of open_pool(), and their connections.
_own_pools: WeakKeyDictionary[Any, WeakSet[Any]] = WeakKeyDictionary()
