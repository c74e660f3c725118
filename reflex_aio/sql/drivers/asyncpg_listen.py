"""asyncpg: connections of our own beside the user's, over which processes wake each other."""

from __future__ import annotations  # asyncpg.Connection takes a parameter in its stubs only

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Self
from weakref import WeakKeyDictionary

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from reflex_aio.sql.drivers.base import CannotNotify, ListenConnection

__all__ = ["Address", "AsyncpgListenConnection", "address_of"]

# Seconds.
_CONNECT_TIMEOUT = 10.0

# Appended to the user's own, so that pg_stat_activity tells our connections from theirs.
_APPLICATION_NAME = "reflex_aio"

# A NOTIFY is a transaction that writes. A crash loses it whether or not it was flushed to disk, so it doesn't wait, and
# leaves the disk to the writers' commits. Not set for the session, which behind a pooler is everybody's.
_UNFLUSHED = "SET LOCAL synchronous_commit = off"


class Address:
    """Where a connection is connected and as whom. Holds its password: never to be logged.

    :param host: a unix socket's path, or host and port: the one that answered, of a DSN with several
    :param parameters: asyncpg's named tuple of the same connection
    """

    def __init__(self, host: str | tuple[str, int], parameters: Any) -> None:
        self._host, self._parameters = host, parameters
        self.server: Hashable = (host, parameters.user, parameters.database)

    async def connect(self) -> asyncpg.Connection[asyncpg.Record]:
        """Open a new connection to the same server and database, as the same user."""
        given: dict[str, Any] = self._parameters._asdict()
        host, port = (self._host, None) if isinstance(self._host, str) else self._host
        settings: dict[str, str] = dict(given["server_settings"] or {})
        name = settings.get("application_name", "")
        settings["application_name"] = f"{name} {_APPLICATION_NAME}".strip()
        others: dict[str, Any] = {
            "ssl": self._ssl(),
            # Of several hosts this one was right; when it no longer is, its own errors say so.
            "target_session_attrs": "any",
            # Parameters that not every supported version has.
            **{key: given[key] for key in ("krbsrvname", "gsslib") if given.get(key) is not None},
        }
        negotiation = given.get("ssl_negotiation")
        if negotiation is not None and negotiation.value == "direct":
            others["direct_tls"] = True
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            host=host,
            port=port,
            user=given["user"],
            password=given["password"],
            database=given["database"],
            server_settings=settings,
            timeout=_CONNECT_TIMEOUT,
            # A pooler may answer each statement by another server connection.
            statement_cache_size=0,
            **others,
        )
        return connection

    def _ssl(self) -> Any:
        mode = self._parameters.sslmode
        if mode.name in ("allow", "prefer"):
            # These try with and without TLS, which a context alone would not.
            return mode.name
        return self._parameters.ssl or False


async def address_of(connection: Any) -> Address:
    """Return where ``connection``, no proxy, is connected; asks it by an empty statement the first time."""
    address = _addresses.get(connection)
    if address is None:
        address = _addresses[connection] = await _learn(connection)
    return address


async def _learn(connection: Any) -> Address:
    # Only a query logger is told publicly where the connection goes to.
    learned: asyncio.Future[Address] = asyncio.get_running_loop().create_future()

    def learn(statement: Any) -> None:
        if not learned.done():
            learned.set_result(Address(statement.conn_addr, statement.conn_params))

    with connection.query_logger(learn):
        # Takes no snapshot and starts nothing. Not execute(), which fails on an empty statement.
        try:
            await connection.fetch("")
        except asyncpg.InFailedSQLTransactionError:
            pass
    return await learned


_addresses: WeakKeyDictionary[Any, Address] = WeakKeyDictionary()


class AsyncpgListenConnection(ListenConnection):
    """A raw asyncpg connection that was taken over."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], pid: int) -> None:
        self.connection = connection
        self._pid = pid
        self._lost: Callable[[], None] | None = None
        # A pooler gives its clients process ids of its own making.
        self.direct = pid == connection.get_server_pid()

    @classmethod
    async def take(cls, connection: Any) -> Self:
        if isinstance(connection, PoolConnectionProxy) or not isinstance(connection, asyncpg.Connection):
            raise TypeError(
                f"{connection!r} is no connection of its own: accepted is what asyncpg.connect() returns,"
                " as a pool would wait for it when it is closed"
            )
        try:
            return cls(connection, await connection.fetchval("SELECT pg_catalog.pg_backend_pid()"))
        except BaseException:
            connection.terminate()
            raise

    async def listen(self, channel: str, heard: Callable[[str, bool], None]) -> None:
        def notified(connection: object, pid: int, channel: str, payload: object) -> None:
            heard(str(payload), pid == self._pid)

        try:
            await self.connection.add_listener(channel, notified)
        except asyncpg.ReadOnlySQLTransactionError as exc:
            raise CannotNotify(str(exc)) from exc

    async def notify(self, channel: str, payloads: Sequence[str], *, timeout: float) -> None:
        # As text, which is one transaction and one round trip, behind a pooler too. pg_notify() in a prepared statement
        # takes the server three times as long, as a query.
        told = [f'NOTIFY "{channel}", {_literal(payload)}' for payload in payloads]
        try:
            # asyncpg's own limit takes a tenth of the calls that asyncio.timeout() takes, on the way of each wake-up.
            await self.connection.execute("; ".join([_UNFLUSHED, *told]), timeout=timeout)
        except asyncpg.ReadOnlySQLTransactionError as exc:
            raise CannotNotify(str(exc)) from exc

    def on_lost(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self.connection.add_termination_listener(self._ended)

    def _ended(self, connection: object) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()

    async def close(self) -> None:
        self._lost = None
        # It says goodbye and waits for nothing. asyncpg's close() would wait for a silent server, and before 0.32
        # one that was interrupted left the socket open.
        self.connection.terminate()


def _literal(text: str) -> str:
    """Return ``text`` as a literal of SQL that is the same with any ``standard_conforming_strings``."""
    quoted = text.replace("'", "''")
    return f"'{quoted}'" if "\\" not in text else "E'{}'".format(quoted.replace("\\", "\\\\"))
