"""The mailer as a process: started, killed, ended."""

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

_CHECKOUT = Path(__file__).parents[2]


class MailerProcess:
    """``python -m examples.mailer`` in a process of its own, which ends with this one at the latest.

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
        # Its standard input ends when this process does, however that ends; a Ctrl-C is for this process alone.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "examples.mailer", *self._arguments,
            stdin=subprocess.PIPE, cwd=_CHECKOUT, start_new_session=True,
        )  # fmt: skip

    async def kill(self) -> None:
        """End it with SIGKILL: it can't do anything about it, nor store anything any more."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.communicate()

    async def end(self) -> int:
        """Ask it to end, as a deployment does, and return its exit status."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode
