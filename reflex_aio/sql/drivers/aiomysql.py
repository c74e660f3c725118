"""aiomysql: its connections and pools."""

import socket
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, ClassVar

try:
    import aiomysql
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "this driver needs aiomysql: pip install 'reflex-aio[mysql]'", name=exc.name
    ) from exc

from reflex_aio.sql.drivers.mysql import MysqlDriver

__all__ = ["AiomysqlDriver"]


class _Cursor(aiomysql.Cursor):  # type: ignore[misc]
    """A cursor that does not fetch warnings. aiomysql would issue them as Python warnings."""

    warned = False

    async def _show_warnings(self, connection: object) -> None:
        self.warned = True


class AiomysqlDriver(MysqlDriver):
    """Connections and pools of aiomysql."""

    name: ClassVar[str] = "aiomysql"
    error: ClassVar[type[Exception]] = aiomysql.MySQLError
    interface_error: ClassVar[type[Exception]] = aiomysql.InterfaceError
    cursor: ClassVar[type[Any]] = _Cursor
    create_pool: ClassVar[Callable[..., Awaitable[Any]]] = staticmethod(aiomysql.create_pool)

    def is_connection(self, candidate: object) -> bool:
        return isinstance(candidate, aiomysql.Connection)

    def is_pool(self, candidate: object) -> bool:
        return isinstance(candidate, aiomysql.Pool)

    def address(self, connection: Any) -> tuple[Hashable, Hashable, str | None]:
        return connection.unix_socket or (connection.host, connection.port), connection.user, connection.db

    def socket(self, connection: Any) -> socket.socket | None:
        # Neither a public name, nor one that each version has.
        writer = getattr(connection, "_writer", None)
        return None if writer is None else writer.get_extra_info("socket")

    def is_closed(self, connection: Any) -> bool:
        return bool(connection.closed)
