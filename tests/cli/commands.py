"""Running the command: within the test's process, where nothing has to be killed."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner

from reflex_aio.cli.app import app


@dataclass(frozen=True)
class Outcome:
    """What became of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it has written, one document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def told(self, status: int) -> str:
        """Check that it has failed with a status, and with one line; return that."""
        assert (self.status, self.out) == (status, ""), self
        [line] = self.err.splitlines()
        assert line.startswith("reflex-aio: "), self
        return line.removeprefix("reflex-aio: ")

    def done(self) -> "Outcome":
        """Check that it has succeeded."""
        assert self.status == 0, self
        return self


def call(*arguments: str, given: str | None = None, **environment: str) -> Outcome:
    """Run the command, outside of any event loop.

    :param given: its standard input
    """
    # Whatever the environment of the tests says of databases and tables is not for the command.
    variables: dict[str, str | None] = {"REFLEX_DSN": None, "COLUMNS": "100", **environment}
    result = CliRunner().invoke(app, arguments, input=given, env=variables, prog_name="reflex-aio")
    return Outcome(result.exit_code, result.stdout, result.stderr)


async def reflex_aio(*arguments: str, given: str | None = None, **environment: str) -> Outcome:
    """Run the command while the test's event loop goes on, as a command has one of its own."""
    return await asyncio.to_thread(call, *arguments, given=given, **environment)
