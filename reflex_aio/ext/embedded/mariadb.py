"""A private MariaDB server, from the programs of the system's MariaDB.

No Python package contains MariaDB's programs. On Debian they come with ``apt-get install mariadb-server``; the service
of that package need not run.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlencode

from reflex_aio.ext.embedded.server import EmbeddedServer, EmbeddedServerError, Setting

__all__ = ["EmbeddedMariaDB"]

_SUPERUSER = "root"
_SOCKET = "mariadb.sock"
_PID = "mariadb.pid"
# The first byte of a server's greeting, after the header of the packet. An error packet starts with another one.
_PROTOCOL_VERSION = 10
# Directories of server programs that are often missing from PATH.
_SYSTEM_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin", "/usr/local/mysql/bin", "/usr/local/mysql/scripts")

_REAPER = f"""
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


class EmbeddedMariaDB(EmbeddedServer):
    """A private MariaDB server, as an async context manager.

    It listens on a unix socket that only this account (and root) can access, where the user ``root`` has no password.
    It ends with this process, even if the process is killed. Its character set is utf8mb4.

    :param directory: the data directory, created when it is missing or empty. By default it is temporary, and removed
        on exit
    :param temporary_in: the directory for temporary directories; by default that of the system
    :param port: listen on 127.0.0.1 at this port as well, 0 for a free one; any local account can then connect as
        ``root``
    :param settings: server settings that override the defaults, such as ``{"max_connections": 200}``
    :param start_timeout: the time that a start may take, crash recovery included, in seconds
    :raises EmbeddedServerError: if MariaDB is not installed
    """

    _product: ClassVar[str] = "MariaDB"
    _account_name: ClassVar[str] = "mysql"
    _default_port: ClassVar[int] = 3306
    _socket_name: ClassVar[str] = _SOCKET
    _reaper_script: ClassVar[str] = _REAPER

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
            programs=_find_program("mariadbd").parent,
            start_timeout=start_timeout,
        )

    @property
    def dsn(self) -> str:
        """The DSN over the unix socket, as superuser and without a database."""
        return self.dsn_for("")

    @property
    def socket(self) -> Path:
        """The unix socket."""
        return self.socket_directory / _SOCKET

    def _make_dsn(self, quoted_database: str, *, tcp: bool) -> str:
        if tcp:
            return f"mysql://{_SUPERUSER}@127.0.0.1:{self._port}/{quoted_database}"
        query = urlencode({"unix_socket": str(self.socket)})
        return f"mysql://{_SUPERUSER}@localhost/{quoted_database}?{query}"

    async def _check_programs(self) -> None:
        pass  # They belong to the system, so every account can run them.

    async def _initialize_data(self) -> None:
        await self.run(
            str(_find_program("mariadb-install-db")), "--no-defaults", f"--datadir={self.directory}",
            "--auth-root-authentication-method=normal", "--skip-name-resolve", "--skip-test-db",
            # A directory of its own: a server that starts removes the temporary tables of all servers in it.
            f"--tmpdir={self.socket_directory}",
        )  # fmt: skip

    def _start_command(self) -> Sequence[str]:
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
            *(f"--{name}={_format(value)}" for name, value in settings.items()),
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
        return greeting[4:] == bytes([_PROTOCOL_VERSION])

    async def _end(self, number: signal.Signals) -> None:
        await super()._end(number)
        if self._home is not None:
            # A killed server leaves its pid file, and another process may get the same pid: the reaper would kill it.
            (self._home / _PID).unlink(missing_ok=True)


def _find_program(name: str) -> Path:
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *_SYSTEM_DIRECTORIES)))
    if found is None:
        raise EmbeddedServerError(
            f"{name} was not found: install MariaDB, for example with apt-get install mariadb-server"
        )
    return Path(found)


def _format(value: Setting) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
