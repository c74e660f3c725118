"""The process of the mailer: start, kill, terminate."""

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

_CHECKOUT = Path(__file__).parents[2]


class MailerProcess:
    """``python -m examples.mailer`` in a process of its own, which never outlives this one.

    :param users: the address of the users service
    :param database: the DSN of the mailer's database
    """

    def __init__(self, *, users: str, database: str) -> None:
        self._arguments = ("--users", users, "--database", database, "--tethered")
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        # --tethered: its standard input is closed when this process ends for any reason. In a session of its own, it
        # does not receive the Ctrl-C of the terminal.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "examples.mailer", *self._arguments,
            stdin=subprocess.PIPE, cwd=_CHECKOUT, start_new_session=True,
        )  # fmt: skip

    async def kill(self) -> None:
        """Kill the process with SIGKILL: it cannot store anything any more."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.communicate()

    async def terminate(self) -> int:
        """Send SIGTERM, as a deployment does, and return the exit status."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode
