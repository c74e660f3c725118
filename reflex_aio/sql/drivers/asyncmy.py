"""asyncmy: its connections and pools."""

import socket
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, ClassVar

try:
    import asyncmy
    import asyncmy.cursors
    import asyncmy.errors
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "this driver needs asyncmy: pip install 'reflex-aio[asyncmy]'", name=exc.name
    ) from exc

from reflex_aio.sql.drivers.mysql import MysqlDriver

__all__ = ["AsyncmyDriver"]


class _Cursor(asyncmy.cursors.Cursor):
    """A cursor that does not fetch warnings. asyncmy would log them."""

    warned = False

    async def _show_warnings(self, conn: object) -> None:
        self.warned = True


class AsyncmyDriver(MysqlDriver):
    """Connections and pools of asyncmy."""

    name: ClassVar[str] = "asyncmy"
    error: ClassVar[type[Exception]] = asyncmy.errors.MySQLError
    interface_error: ClassVar[type[Exception]] = asyncmy.errors.InterfaceError
    cursor: ClassVar[type[Any]] = _Cursor
    create_pool: ClassVar[Callable[..., Awaitable[Any]]] = staticmethod(asyncmy.create_pool)

    def is_connection(self, candidate: object) -> bool:
        return isinstance(candidate, asyncmy.Connection)

    def is_pool(self, candidate: object) -> bool:
        return isinstance(candidate, asyncmy.Pool)

    def address(self, connection: Any) -> tuple[Hashable, Hashable, str | None]:
        # asyncmy has no public names for these, and encodes the database's name when it connects.
        address = connection._unix_socket or (connection._host, connection._port)
        database = connection._db
        return address, connection._user, database.decode() if isinstance(database, bytes) else database

    def socket(self, connection: Any) -> socket.socket | None:
        # Neither a public name, nor one that each version has.
        transport = getattr(connection, "_transport", None)
        return None if transport is None else transport.get_extra_info("socket")

    def is_closed(self, connection: Any) -> bool:
        if not connection.connected:
            return True
        # A connection that was reset by the server still counts as connected. Not every version of asyncmy has this
        # name.
        transport = getattr(connection, "_transport", None)
        return transport is not None and bool(transport.is_closing())
