"""A database server of our own: started, stopped and killed, and ended with its owner."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from reflex_aio.ext.accounts import Account, EmbeddedServerError, run_to_end

__all__ = ["EmbeddedServer", "Log", "Setting"]

Setting = str | int | float | bool

# Seconds between two looks at a server that starts, and that it may take to stop when its owner leaves.
_POLL = 0.01
_STOP_TIMEOUT = 30.0
# Of sun_path's 108 bytes (104 on macOS) the last is a zero.
_SOCKET_PATH_MAX = 103


class Log:
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


class EmbeddedServer(ABC):
    """What embedded servers have in common, as async context managers. Their own docstrings tell the rest."""

    _called: ClassVar[str]
    """What people call it."""
    _error: ClassVar[type[EmbeddedServerError]]
    _account_name: ClassVar[str]
    """The account that runs it by custom."""
    _default_port: ClassVar[int]
    _socket_name: ClassVar[str]
    """The longest name of its socket."""
    _crash: ClassVar[signal.Signals] = signal.SIGKILL
    """What ends it at once."""
    _guard_script: ClassVar[str]
    """Reads until our process ends, however it ends; then stops the server, and removes what was temporary.

    A shell script. Its arguments: the data directory, and the home directory, where all is that is temporary.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        *,
        temporary_in: str | os.PathLike[str] | None,
        port: int | None,
        settings: Mapping[str, Setting] | None,
        programs: Path,
        start_timeout: float,
    ) -> None:
        self._given_directory = None if directory is None else Path(directory).absolute()
        self._temporary_in = temporary_in
        self._tcp = port is not None
        self._port = _free_port() if port == 0 else port or self._default_port
        self._settings = dict(settings or {})
        self._programs = programs
        self._start_timeout = start_timeout
        self._account = Account(self._account_name)
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
    def port(self) -> int:
        """The port."""
        return self._port

    @property
    def socket_directory(self) -> Path:
        """Where the unix socket is."""
        if self._home is None:
            raise self._error("the server is used outside of its `async with`")
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

        :raises EmbeddedServerError: if it ends at once or isn't ready after ``start_timeout`` seconds
        """
        if self.running:
            return
        log = Log(self.log)
        try:
            async with asyncio.timeout(self._start_timeout):
                while not await self._launched(log):
                    pass
        except TimeoutError:
            await self._end(self._crash)
            raise self._error(
                f"{self._called} was not ready after {self._start_timeout:g} s\n{log.written()}"
            ) from None

    async def kill(self) -> None:
        """Kill the server with SIGKILL, as the kernel does when memory runs out."""
        await self._end(signal.SIGKILL)

    async def run(self, program: str, *arguments: str) -> str:
        """Run one of the installation's programs, as the server's account, and return its output.

        :raises EmbeddedServerError: if it fails, with what it said
        """
        command = self._account.command(self._programs / program, *arguments)
        status, output = await run_to_end(*command, cwd=self.socket_directory)
        if status != 0:
            raise self._error(f"{program} failed with status {status}\n{output}")
        return output

    # What differs between servers.

    @abstractmethod
    async def _check_programs(self) -> None:
        """See to it that the server's account can run the programs.

        :raises EmbeddedServerError: if it can't
        """

    @abstractmethod
    async def _make_data(self) -> None:
        """Make what a server has in its data directory, which is empty and the account's."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """Return the words that start the server: the program's name, and its arguments."""

    @abstractmethod
    async def _is_ready(self, pid: int) -> bool:
        """Tell whether the server, started as process ``pid``, accepts connections."""

    @abstractmethod
    async def _stop(self) -> None:
        """Stop the server in good order, and return when it has ended."""

    def _may_try_again(self, said: str) -> bool:
        """Tell whether a server that ended while starting, and ``said`` why, may start a moment later."""
        return False

    # Its life.

    async def _prepare(self) -> None:
        self._home = self._make_home()
        self._account.own(self._home)
        await self._check_programs()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(self.directory.iterdir()):
            self._account.own(self.directory)
            await self._make_data()
        self._guard = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", self._guard_script, "guard", str(self.directory), str(self._home),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def _make_home(self) -> Path:
        home = Path(tempfile.mkdtemp(prefix="reflex-", dir=self._temporary_in))
        if len(os.fsencode(home / self._socket_name)) > _SOCKET_PATH_MAX:
            home.rmdir()
            home = Path(tempfile.mkdtemp(prefix="reflex-", dir="/tmp"))
        return home

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
                await self._stop()
        except TimeoutError:
            await self._end(self._crash)
        if self._guard is not None:
            with contextlib.suppress(ProcessLookupError):
                self._guard.kill()
            await self._guard.communicate()
            self._guard = None
        if self._home is not None:
            await asyncio.to_thread(shutil.rmtree, self._home, ignore_errors=True)
            self._home = None

    async def _launched(self, log: Log) -> bool:
        """Start the server once. False if another attempt may succeed."""
        program, *arguments = self._command()
        command = self._account.command(self._programs / program, *arguments)
        with log.path.open("ab") as file:
            self._account.own(log.path)
            # In a session of its own: a Ctrl-C at the terminal is our owner's affair.
            self._server = await asyncio.create_subprocess_exec(
                *command, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                cwd=self.socket_directory, start_new_session=True,
            )  # fmt: skip
        while self._server.returncode is None:
            if await self._is_ready(self._server.pid):
                return True
            await asyncio.sleep(_POLL)
        said = log.written()
        if self._may_try_again(said):
            log.skip()
            await asyncio.sleep(_POLL)
            return False
        raise self._error(
            f"{self._called} ended with status {self._server.returncode} while starting\n{said}"
        )

    async def _end(self, how: signal.Signals) -> None:
        if self._server is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._server.send_signal(how)
        await self._server.wait()
        self._server = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
