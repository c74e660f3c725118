"""Helpers to run the command, in the test's process or as a program."""

import asyncio
import json
import os
import pty
import sys
from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner

from reflex_aio.cli.app import app


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The output, as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def failed(self, status: int) -> str:
        """Assert that the command failed with a status and one line of error. Return that line."""
        assert (self.status, self.out) == (status, ""), self
        [line] = self.err.splitlines()
        assert line.startswith("reflex-aio: "), self
        return line.removeprefix("reflex-aio: ")

    def done(self) -> "Outcome":
        """Assert that the command succeeded."""
        assert self.status == 0, self
        return self


def call(*arguments: str, given: str | None = None, **environment: str) -> Outcome:
    """Run the command, outside of any event loop.

    :param given: its standard input
    """
    # The environment of the tests must not select a database.
    variables: dict[str, str | None] = {"REFLEX_DSN": None, "COLUMNS": "100", **environment}
    result = CliRunner().invoke(app, arguments, input=given, env=variables, prog_name="reflex-aio")
    return Outcome(result.exit_code, result.stdout, result.stderr)


async def reflex_aio(*arguments: str, given: str | None = None, **environment: str) -> Outcome:
    """Run the command in a thread: it has an event loop of its own."""
    return await asyncio.to_thread(call, *arguments, given=given, **environment)


async def on_terminal(*arguments: str) -> str:
    """Run the command as a program on a terminal, and return its output."""
    ours, its = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reflex_aio", *arguments, stdin=its, stdout=its, stderr=its,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
    )  # fmt: skip
    os.close(its)
    written = await asyncio.to_thread(_all_of, ours)
    status = await process.wait()
    assert status == 0, f"{status}: {written}"
    return written


def _all_of(terminal: int) -> str:
    written = b""
    with open(terminal, "rb", buffering=0) as reader:
        try:
            while read := reader.read(4096):
                written += read
        except OSError:
            # Linux raises it at the end of a terminal.
            pass
    return written.decode()
