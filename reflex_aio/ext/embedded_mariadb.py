"""A private MariaDB for tests and demonstrations, from the programs of this system's MariaDB.

It has no Python package that brings them, as PostgreSQL has: on Debian they come with ``apt-get install
mariadb-server``, whose own service need not run.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, urlencode

from reflex_aio.ext.accounts import EmbeddedServerError
from reflex_aio.ext.embedded_server import EmbeddedServer, Setting

__all__ = ["EmbeddedMariaDB", "EmbeddedMariaDBError"]

_SUPERUSER = "root"
_SOCKET = "mariadb.sock"
_PID = "mariadb.pid"
# The first byte of a server's greeting after the packet's header; an error has another one.
_PROTOCOL = 10
# Where servers' programs are, other than on everybody's PATH.
_SYSTEM = ("/usr/sbin", "/usr/local/sbin", "/usr/local/mysql/bin", "/usr/local/mysql/scripts")

_GUARD = f"""
home=$2
cat >/dev/null
if read -r pid <"$home/{_PID}"; then
  kill -TERM "$pid"
  tries=0
  while kill -0 "$pid" && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
  kill -KILL "$pid"
fi
rm -rf "$home"
"""


class EmbeddedMariaDBError(EmbeddedServerError):
    """Raised when a server can't be made or started; the message ends with what MariaDB said."""


class EmbeddedMariaDB(EmbeddedServer):
    """A MariaDB server of our own, as an async context manager.

    It listens on a unix socket that only this account (and root) can reach, where ``root`` has no password. It
    ends with this process, even if that is killed. Its character set is utf8mb4.

    :param directory: where the data is kept; made when missing or empty. By default it is temporary and
        removed on leaving.
    :param temporary_in: where temporary directories are made; by default where the system has them
    :param port: listen on 127.0.0.1 at this port too, 0 for a free one; any local account can then connect
        as ``root``
    :param settings: server settings beyond the defaults, like ``{"max_connections": 200}``
    :param start_timeout: seconds that a start may take, crash recovery included
    :raises EmbeddedMariaDBError: if MariaDB is not installed
    """

    _called: ClassVar[str] = "MariaDB"
    _error: ClassVar[type[EmbeddedServerError]] = EmbeddedMariaDBError
    _account_name: ClassVar[str] = "mysql"
    _default_port: ClassVar[int] = 3306
    _socket_name: ClassVar[str] = _SOCKET
    _guard_script: ClassVar[str] = _GUARD

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        temporary_in: str | os.PathLike[str] | None = None,
        port: int | None = None,
        settings: Mapping[str, Setting] | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        super().__init__(
            directory,
            temporary_in=temporary_in,
            port=port,
            settings=settings,
            programs=_program("mariadbd").parent,
            start_timeout=start_timeout,
        )

    @property
    def dsn(self) -> str:
        """How to connect over the unix socket, as superuser and to no database."""
        return self.dsn_for("")

    @property
    def socket(self) -> Path:
        """The unix socket."""
        return self.socket_directory / _SOCKET

    def dsn_for(self, database: str, *, tcp: bool = False) -> str:
        """How to connect to ``database``, over the unix socket or over TCP.

        :raises ValueError: if ``tcp`` is asked for without a ``port``
        """
        name = quote(database, safe="")
        if not tcp:
            return f"mysql://{_SUPERUSER}@localhost/{name}?{urlencode({'unix_socket': str(self.socket)})}"
        if not self._tcp:
            raise ValueError(
                "the server does not listen on TCP: give EmbeddedMariaDB a port, 0 for a free one"
            )
        return f"mysql://{_SUPERUSER}@127.0.0.1:{self._port}/{name}"

    async def stop(self) -> None:
        """Stop the server, its clients' transactions rolled back, and return when it has ended."""
        await self._end(signal.SIGTERM)

    async def restart(self) -> None:
        """Stop and start the server, on the same socket and port."""
        await self.stop()
        await self.start()

    async def _stop(self) -> None:
        await self.stop()

    async def _check_programs(self) -> None:
        # Those of the system, which every account can run.
        pass

    async def _make_data(self) -> None:
        await self.run(
            str(_program("mariadb-install-db")), "--no-defaults", f"--datadir={self.directory}",
            "--auth-root-authentication-method=normal", "--skip-name-resolve", "--skip-test-db",
            # One that starts removes the temporary tables of all others in the directory.
            f"--tmpdir={self.socket_directory}",
        )  # fmt: skip

    def _command(self) -> Sequence[str]:
        settings: dict[str, Setting] = {
            "datadir": str(self.directory),
            "socket": str(self.socket),
            "pid_file": str(self.socket_directory / _PID),
            "tmpdir": str(self.socket_directory),
            "port": self._port,
            **({"bind_address": "127.0.0.1"} if self._tcp else {"skip_networking": True}),
            "skip_name_resolve": True,
            "character_set_server": "utf8mb4",
            **self._settings,
        }
        return (
            "mariadbd",
            "--no-defaults",
            *(f"--{name}={_setting(value)}" for name, value in settings.items()),
        )

    async def _is_ready(self, pid: int) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.socket))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        try:
            greeting = await reader.read(5)
        finally:
            writer.close()
        return greeting[4:] == bytes([_PROTOCOL])

    async def _end(self, how: signal.Signals) -> None:
        await super()._end(how)
        if self._home is not None:
            # Not removed by a server that was killed, and its number may become another process's.
            (self._home / _PID).unlink(missing_ok=True)


def _program(name: str) -> Path:
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *_SYSTEM)))
    if found is None:
        raise EmbeddedMariaDBError(
            f"there is no {name}: install MariaDB, as by apt-get install mariadb-server"
        )
    return Path(found)


def _setting(value: Setting) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
