"""asyncpg: separate connections, with the parameters of a given one, over which processes notify each other."""

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

# Appended to the user's application_name, so that pg_stat_activity distinguishes these connections.
_APPLICATION_NAME = "reflex_aio"

# A NOTIFY is a transaction that writes. A crash of the server loses it whether or not it was flushed to disk, so it
# need not wait for the disk, and leaves the disk to the writers' commits. It is not set for the session: behind a
# pooler, others use the session too.
_WITHOUT_FLUSH = "SET LOCAL synchronous_commit = off"


class Address:
    """The address, database and user of a connection. It contains the password: never log it.

    :param host: the path of a Unix socket, or host and port: the one that answered, of a DSN with several
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
            # Of several hosts this one qualified. If it no longer does, statements on it will fail.
            "target_session_attrs": "any",
            # Parameters that not every supported version of asyncpg has.
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
            # A pooler may run each statement on another server connection.
            statement_cache_size=0,
            **others,
        )
        return connection

    def _ssl(self) -> Any:
        mode = self._parameters.sslmode
        if mode.name in ("allow", "prefer"):
            # These try with and without TLS; an SSL context alone would not.
            return mode.name
        return self._parameters.ssl or False


async def address_of(connection: Any) -> Address:
    """Return the address of ``connection``, which is not a proxy. Runs an empty statement on it the first time."""
    address = _addresses.get(connection)
    if address is None:
        address = _addresses[connection] = await _find_address(connection)
    return address


async def _find_address(connection: Any) -> Address:
    # The arguments of a query logger are asyncpg's only public source of a connection's address.
    found: asyncio.Future[Address] = asyncio.get_running_loop().create_future()

    def log(statement: Any) -> None:
        if not found.done():
            found.set_result(Address(statement.conn_addr, statement.conn_params))

    with connection.query_logger(log):
        # Takes no snapshot and begins no transaction. Not execute(), which fails on an empty statement.
        try:
            await connection.fetch("")
        except asyncpg.InFailedSQLTransactionError:
            pass
    return await found


_addresses: WeakKeyDictionary[Any, Address] = WeakKeyDictionary()


class AsyncpgListenConnection(ListenConnection):
    """An asyncpg connection that belongs to no pool."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], pid: int) -> None:
        self.connection = connection
        self._pid = pid
        self._lost: Callable[[], None] | None = None
        # A pooler invents the process ids that it sends to its clients.
        self.direct = pid == connection.get_server_pid()

    @classmethod
    async def wrap(cls, connection: Any) -> Self:
        """Take ownership of ``connection``. It is closed if this raises.

        :raises TypeError: if it is not a connection of asyncpg, or belongs to a pool
        """
        if isinstance(connection, PoolConnectionProxy) or not isinstance(connection, asyncpg.Connection):
            raise TypeError(
                f"{connection!r} is not accepted: pass a connection that asyncpg.connect() returned. A pool would wait"
                " for its connection when it is closed"
            )
        try:
            return cls(connection, await connection.fetchval("SELECT pg_catalog.pg_backend_pid()"))
        except BaseException:
            connection.terminate()
            raise

    async def listen(self, channel: str, received: Callable[[str, bool], None]) -> None:
        def notified(connection: object, pid: int, channel: str, payload: object) -> None:
            received(str(payload), pid == self._pid)

        try:
            await self.connection.add_listener(channel, notified)
        except asyncpg.ReadOnlySQLTransactionError as exc:
            raise CannotNotify(str(exc)) from exc

    async def notify(self, channel: str, payloads: Sequence[str], *, timeout: float) -> None:
        # As one text, which is one transaction and one round trip, also behind a pooler. A prepared SELECT pg_notify()
        # takes the server three times as long.
        statements = [f'NOTIFY "{channel}", {_literal(payload)}' for payload in payloads]
        try:
            # asyncpg's own timeout takes a tenth of the calls of asyncio.timeout(), for each wake-up.
            await self.connection.execute("; ".join([_WITHOUT_FLUSH, *statements]), timeout=timeout)
        except asyncpg.ReadOnlySQLTransactionError as exc:
            raise CannotNotify(str(exc)) from exc

    def on_lost(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self.connection.add_termination_listener(self._terminated)

    def _terminated(self, connection: object) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()

    async def close(self) -> None:
        self._lost = None
        # Sends Terminate and waits for nothing. asyncpg's close() would wait for a server that does not answer, and
        # before 0.32, a close() that was interrupted left the socket open.
        self.connection.terminate()


def _literal(text: str) -> str:
    """Return ``text`` as an SQL literal that does not depend on ``standard_conforming_strings``."""
    quoted = text.replace("'", "''")
    return f"'{quoted}'" if "\\" not in text else "E'{}'".format(quoted.replace("\\", "\\\\"))
