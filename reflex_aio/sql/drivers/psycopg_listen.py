"""psycopg 3: separate connections, with the parameters of a given one, over which processes notify each other."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

from reflex_aio.sql.drivers.base import CannotNotify, ListenConnection

try:
    import psycopg
    from psycopg import errors
except ImportError as exc:
    raise ModuleNotFoundError(
        f"this driver needs psycopg and psycopg_pool: pip install 'reflex-aio[psycopg]' ({exc})",
        name=exc.name,
    ) from exc

__all__ = ["Address", "PsycopgListenConnection", "socket_of"]

# Seconds. libpq accepts whole ones.
_CONNECT_TIMEOUT = 10

# Appended to the user's application_name, so that pg_stat_activity distinguishes these connections.
_APPLICATION_NAME = "reflex_aio"

# As in asyncpg.py: a NOTIFY need not wait for the disk.
_WITHOUT_FLUSH = "SET LOCAL synchronous_commit = off"


class Address:
    """The parameters of a connection. They contain the password: never log them."""

    def __init__(self, connection: Any) -> None:
        info = connection.info
        parameters: dict[str, Any] = info.get_parameters()
        # Of several hosts, the one that answered. If it no longer qualifies, statements on it will fail.
        parameters |= {"host": info.host, "port": info.port, "target_session_attrs": "any"}
        parameters.pop("hostaddr", None)
        if info.hostaddr and info.host and not info.host.startswith(("/", "@")):
            parameters["hostaddr"] = info.hostaddr
        if info.password:
            parameters["password"] = info.password
        name = parameters.get("application_name", "")
        parameters["application_name"] = f"{name} {_APPLICATION_NAME}".strip()
        self._parameters = {**parameters, "connect_timeout": _CONNECT_TIMEOUT}

    async def connect(self) -> psycopg.AsyncConnection[Any]:
        """Open a new connection to the same server and database, as the same user."""
        # A pooler may run each statement on another server connection.
        return await psycopg.AsyncConnection.connect(
            autocommit=True, prepare_threshold=None, **self._parameters
        )


class PsycopgListenConnection(ListenConnection):
    """A psycopg connection that belongs to no pool.

    psycopg reads a connection during a statement only. In between, this object reads it when the event loop reports
    that something has arrived.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], pid: int) -> None:
        self.connection = connection
        self._pid = pid
        self._lost: Callable[[], None] | None = None
        self._received: dict[str, Callable[[str, bool], None]] = {}
        self._loop = asyncio.get_running_loop()
        # A pooler invents the process ids that it sends to its clients.
        self.direct = pid == connection.info.backend_pid
        connection.add_notify_handler(self._notified)

    @classmethod
    async def wrap(cls, connection: Any) -> Self:
        """Take ownership of ``connection``. It is closed if this raises.

        :raises TypeError: if it is not a connection of psycopg, or belongs to a pool
        """
        if (
            not isinstance(connection, psycopg.AsyncConnection)
            or getattr(connection, "_pool", None) is not None
        ):
            raise TypeError(
                f"{connection!r} is not accepted: pass a connection that psycopg.AsyncConnection.connect() returned. A"
                " pool would wait for its connection when it is closed"
            )
        try:
            if not connection.autocommit:
                await connection.set_autocommit(True)
            cursor = psycopg.AsyncCursor(connection, row_factory=psycopg.rows.tuple_row)
            await cursor.execute("SELECT pg_catalog.pg_backend_pid()", binary=True)
            row = await cursor.fetchone()
            listening = cls(connection, int(row[0]) if row else 0)
        except BaseException:
            await connection.close()
            raise
        listening._watch()
        return listening

    async def listen(self, channel: str, received: Callable[[str, bool], None]) -> None:
        self._received[channel] = received
        try:
            await self._execute(f'LISTEN "{channel}"')
        except errors.ReadOnlySqlTransaction as exc:
            raise CannotNotify(str(exc)) from exc

    async def notify(self, channel: str, payloads: Sequence[str], *, timeout: float) -> None:
        # As one text, which is one transaction and one round trip, also behind a pooler.
        statements = [f'NOTIFY "{channel}", {_literal(payload)}' for payload in payloads]
        try:
            async with asyncio.timeout(timeout):
                await self._execute("; ".join([_WITHOUT_FLUSH, *statements]))
        except errors.ReadOnlySqlTransaction as exc:
            raise CannotNotify(str(exc)) from exc

    async def _execute(self, sql: str) -> None:
        try:
            # Without arguments, several statements are sent in one message.
            await psycopg.AsyncCursor(self.connection).execute(sql.encode())
        except asyncio.CancelledError:
            # The state of the session is unknown.
            self.connection.pgconn.finish()
            raise
        finally:
            # psycopg has removed the reader of the socket.
            self._watch()

    def on_lost(self, lost: Callable[[], None]) -> None:
        self._lost = lost

    def _watch(self) -> None:
        if self.connection.closed:
            self._report_lost()
            return
        self._loop.add_reader(self.connection.pgconn.socket, self._read)
        # What arrived behind the result of a statement has been read from the socket.
        self._read()

    def _read(self) -> None:
        pgconn = self.connection.pgconn
        try:
            descriptor = pgconn.socket
            pgconn.consume_input()
            while (notify := pgconn.notifies()) is not None:
                self._deliver(notify.relname.decode(), notify.extra.decode(), notify.be_pid)
        except psycopg.Error:
            with suppress(UnboundLocalError):
                self._loop.remove_reader(descriptor)
            self._report_lost()

    def _notified(self, notify: psycopg.Notify) -> None:
        self._deliver(notify.channel, notify.payload, notify.pid)

    def _deliver(self, channel: str, payload: str, pid: int) -> None:
        received = self._received.get(channel)
        if received is not None:
            received(payload, pid == self._pid)

    def _report_lost(self) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            self._loop.call_soon(lost)

    async def close(self) -> None:
        self._lost = None
        with suppress(psycopg.Error):
            self._loop.remove_reader(self.connection.pgconn.socket)
        # Sends Terminate and waits for nothing.
        await self.connection.close()


@contextmanager
def socket_of(connection: Any) -> Iterator[socket.socket | None]:
    """Return a context with a socket object of the connection, to set its options."""
    try:
        duplicate = socket.socket(fileno=os.dup(connection.pgconn.socket))
    except (OSError, psycopg.Error):
        yield None
        return
    with duplicate:
        yield duplicate


def _literal(text: str) -> str:
    """Return ``text`` as an SQL literal that does not depend on ``standard_conforming_strings``."""
    quoted = text.replace("'", "''")
    return f"'{quoted}'" if "\\" not in text else "E'{}'".format(quoted.replace("\\", "\\\\"))
