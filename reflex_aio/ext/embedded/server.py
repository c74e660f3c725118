"""The life of an embedded server's processes: which account runs them, start, stop, crash, and clean-up."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import quote

from reflex_aio.errors import ReflexError

__all__ = ["EmbeddedServer", "EmbeddedServerError", "Setting"]

Setting = str | int | float | bool

# The interval in seconds at which a starting server is polled.
_POLL_INTERVAL = 0.01
# The time in seconds that a server may take to stop before it is killed.
_STOP_TIMEOUT = 30.0
# The longest path of a unix socket: sun_path has 104 bytes on macOS (108 on Linux), and the last one is a zero.
_SOCKET_PATH_MAX = 103

# Drops root's privileges, then executes a program.
_RUN_AS_ACCOUNT = """
import os, sys
uid, gid, *words = sys.argv[1:]
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
os.execv(words[0], words)
"""


class EmbeddedServerError(ReflexError):
    """Raised when a server cannot be created or started. The message ends with the output of the server."""


class EmbeddedServer(ABC):
    """Base class of the embedded servers, which are async context managers. See their own docstrings."""

    _product: ClassVar[str]
    """The name of the database system, for messages."""
    _account_name: ClassVar[str]
    """The account that runs the server by convention."""
    _default_port: ClassVar[int]
    _socket_name: ClassVar[str]
    """The longest file name that the server's socket may have."""
    _crash_signal: ClassVar[signal.Signals] = signal.SIGKILL
    """Ends the server immediately, together with its child processes."""
    _reaper_script: ClassVar[str]
    """A shell script that blocks until the owning process ends, then stops the server and removes temporary files.

    It notices the end of its owner, of whatever kind, by the end of its standard input. Its arguments are the data
    directory and the home directory, which contains everything that is temporary.
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
        self._port = _find_free_port() if port == 0 else port or self._default_port
        self._settings = dict(settings or {})
        self._programs = programs
        self._start_timeout = start_timeout
        self._account = _Account(self._account_name)
        self._home: Path | None = None
        self._log_offset = 0
        self._reaper: asyncio.subprocess.Process | None = None
        self._server: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._prepare()
            await self.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    @property
    def port(self) -> int:
        """The port number."""
        return self._port

    @property
    def socket_directory(self) -> Path:
        """The directory of the unix socket."""
        if self._home is None:
            raise EmbeddedServerError("the server is used outside of its `async with`")
        return self._home

    @property
    def directory(self) -> Path:
        """The data directory."""
        return self._given_directory or self.socket_directory / "data"

    @property
    def programs(self) -> Path:
        """The directory of the installation's programs."""
        return self._programs

    @property
    def log(self) -> Path:
        """The file that the server's standard error is appended to."""
        return self.directory / "server.log"

    @property
    def running(self) -> bool:
        """True if the server has been started and has not ended since."""
        return self._server is not None and self._server.returncode is None

    def dsn_for(self, database: str, *, tcp: bool = False) -> str:
        """Return the DSN of ``database``, over the unix socket or over TCP.

        :raises ValueError: if ``tcp`` is true and the server was created without ``port``
        """
        if tcp and not self._tcp:
            raise ValueError(
                f"the server does not listen on TCP: pass port= to {type(self).__name__}, 0 for a free port"
            )
        return self._make_dsn(quote(database, safe=""), tcp=tcp)

    async def start(self) -> None:
        """Start the server, and return when it accepts connections. Does nothing if it is running.

        :raises EmbeddedServerError: if it ends at once, or is not ready after ``start_timeout`` seconds
        """
        if self.running:
            return
        try:
            async with asyncio.timeout(self._start_timeout):
                while not await self._try_start():
                    pass
        except TimeoutError:
            await self._end(self._crash_signal)
            raise EmbeddedServerError(
                f"{self._product} was not ready after {self._start_timeout:g} s\n{self._latest_output()}"
            ) from None

    async def stop(self) -> None:
        """Stop the server, which rolls back the transactions of its clients, and return when it has ended."""
        await self._end(signal.SIGTERM)

    async def restart(self) -> None:
        """Stop and start the server, on the same socket and port."""
        await self.stop()
        await self.start()

    async def kill(self) -> None:
        """Kill the server with SIGKILL, as the kernel does when memory runs out."""
        await self._end(signal.SIGKILL)

    async def run(self, program: str, *arguments: str) -> str:
        """Run one of the installation's programs under the server's account, and return its output.

        :raises EmbeddedServerError: if it fails; the message contains its output
        """
        command = self._account.command(self._programs / program, *arguments)
        status, output = await _run_to_end(*command, cwd=self.socket_directory)
        if status != 0:
            raise EmbeddedServerError(f"{program} failed with status {status}\n{output}")
        return output

    # The differences between database systems.

    @abstractmethod
    def _make_dsn(self, quoted_database: str, *, tcp: bool) -> str:
        """Return the DSN of a database."""

    @abstractmethod
    async def _initialize_data(self) -> None:
        """Fill the data directory, which is empty and owned by the server's account."""

    @abstractmethod
    def _start_command(self) -> Sequence[str]:
        """Return the command that starts the server: the name of the program, and its arguments."""

    @abstractmethod
    async def _is_ready(self, pid: int) -> bool:
        """Return whether the server, started as process ``pid``, accepts connections."""

    @abstractmethod
    async def _check_programs(self) -> None:
        """Ensure that the server's account can run the programs.

        :raises EmbeddedServerError: if it cannot
        """

    def _is_transient_failure(self, output: str) -> bool:
        """Return whether a server that ended with ``output`` while starting may start a moment later."""
        return False

    # The life of the processes.

    async def _prepare(self) -> None:
        self._home = self._create_home()
        self._account.take_ownership(self._home)
        await self._check_programs()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(self.directory.iterdir()):
            self._account.take_ownership(self.directory)
            await self._initialize_data()
        self._reaper = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", self._reaper_script, "reaper", str(self.directory), str(self._home),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def _create_home(self) -> Path:
        home = Path(tempfile.mkdtemp(prefix="reflex-", dir=self._temporary_in))
        if len(os.fsencode(home / self._socket_name)) > _SOCKET_PATH_MAX:
            home.rmdir()
            home = Path(tempfile.mkdtemp(prefix="reflex-", dir="/tmp"))
        return home

    async def _close(self) -> None:
        # Continues if the caller is cancelled, and is awaited: a server left behind would outlive its owner.
        closing = asyncio.ensure_future(self._stop_and_remove())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing
            raise

    async def _stop_and_remove(self) -> None:
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self.stop()
        except TimeoutError:
            await self._end(self._crash_signal)
        if self._reaper is not None:
            with contextlib.suppress(ProcessLookupError):
                self._reaper.kill()
            await self._reaper.communicate()
            self._reaper = None
        if self._home is not None:
            await asyncio.to_thread(shutil.rmtree, self._home, ignore_errors=True)
            self._home = None

    async def _try_start(self) -> bool:
        """Start the server once. Return ``False`` if it has ended and another try may succeed."""
        program, *arguments = self._start_command()
        command = self._account.command(self._programs / program, *arguments)
        with self.log.open("ab") as file:
            self._log_offset = file.tell()
            self._account.take_ownership(self.log)
            # In a session of its own: a Ctrl-C at the terminal must reach only the owning process.
            self._server = await asyncio.create_subprocess_exec(
                *command, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                cwd=self.socket_directory, start_new_session=True,
            )  # fmt: skip
        while self._server.returncode is None:
            if await self._is_ready(self._server.pid):
                return True
            await asyncio.sleep(_POLL_INTERVAL)
        output = self._latest_output()
        if self._is_transient_failure(output):
            await asyncio.sleep(_POLL_INTERVAL)
            return False
        raise EmbeddedServerError(
            f"{self._product} ended with status {self._server.returncode} while starting\n{output}"
        )

    def _latest_output(self) -> str:
        """Return the output of the server since its latest start."""
        with self.log.open("rb") as file:
            file.seek(self._log_offset)
            return file.read().decode(errors="replace")

    async def _end(self, number: signal.Signals) -> None:
        """Send a signal to the server, if it is running, and wait until it has ended."""
        if self._server is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._server.send_signal(number)
        await self._server.wait()
        self._server = None


class _Account:
    """The system account that runs a server: that of this process, or an unprivileged one if this process is root.

    Database servers refuse to run as root.

    :param preferred: the name of the server's account by convention
    :raises EmbeddedServerError: if there is neither that account nor ``nobody``
    """

    def __init__(self, preferred: str) -> None:
        self._other = _find_unprivileged_account(preferred) if os.geteuid() == 0 else None

    @property
    def name(self) -> str:
        """The name of the account."""
        return (self._other or pwd.getpwuid(os.geteuid())).pw_name

    def take_ownership(self, path: Path) -> None:
        """Make the account the owner of ``path``."""
        if self._other is not None:
            os.chown(path, self._other.pw_uid, self._other.pw_gid)

    def command(self, program: Path, *arguments: str) -> tuple[str, ...]:
        """Return the command that runs ``program`` under the account.

        It avoids the ``user=`` of subprocesses, which makes them fork. With gRPC active in this process, a forked
        child breaks. Otherwise vfork is used, which does not run gRPC's fork handlers.
        """
        if self._other is None:
            return str(program), *arguments
        ids = str(self._other.pw_uid), str(self._other.pw_gid)
        return sys.executable, "-I", "-S", "-c", _RUN_AS_ACCOUNT, *ids, str(program), *arguments

    async def can_run(self, program: Path) -> bool:
        """Return whether the account can run ``program``. One below root's home directory is not accessible."""
        status, _ = await _run_to_end(*self.command(program, "--version"), cwd=Path("/"))
        return status == 0


def _find_unprivileged_account(preferred: str) -> pwd.struct_passwd:
    for name in (preferred, "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedServerError(
        f"a database server refuses to run as root, and there is no account {preferred} or nobody"
    )


async def _run_to_end(*command: str, cwd: Path) -> tuple[int | None, str]:
    """Run a program, and return its exit status and output. On cancellation it is terminated and awaited."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd=cwd, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = await process.communicate()
    except BaseException:
        # Not killed: on SIGTERM initdb removes the files that it has created so far.
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()
        raise
    return process.returncode, output.decode(errors="replace")


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
