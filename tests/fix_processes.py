"""Child Python processes, by spawn: what a test kills and starts again."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio

from tests.waiting import deadline

_ROOT = Path(__file__).parent.parent

# Arguments travel as JSON.
_CALL = """
import asyncio, importlib, inspect, json, sys
loop, module, name, arguments = sys.argv[1:]
result = getattr(importlib.import_module(module), name)(*json.loads(arguments))
if inspect.isawaitable(result):
    with asyncio.Runner(loop_factory=importlib.import_module(loop).new_event_loop) as runner:
        runner.run(result)
"""


class Child:
    """A child process that talks to the test in lines on its standard output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def line(self, *, within: float = 20.0) -> str:
        """Return the next line that it prints, without the line's end.

        :raises AssertionError: if it ends first
        :raises TimeoutError: after ``within`` seconds
        """
        assert self._process.stdout
        async with asyncio.timeout(deadline(within)):
            line = await self._process.stdout.readline()
            if not line:
                raise AssertionError(
                    f"the child ended with status {await self._process.wait()}, its errors are above"
                )
        return line.decode().rstrip("\n")

    async def until(self, expected: str, *, within: float = 20.0) -> list[str]:
        """Read lines up to the line ``expected``, and return those before it."""
        lines: list[str] = []
        async with asyncio.timeout(deadline(within)):
            while (line := await self.line(within=within)) != expected:
                lines.append(line)
        return lines

    async def write_line(self, text: str) -> None:
        """Send a line to its standard input."""
        assert self._process.stdin
        self._process.stdin.write(f"{text}\n".encode())
        await self._process.stdin.drain()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal. Not an error if it has ended already."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def rest(self, *, within: float = 20.0) -> list[str]:
        """Return the lines that it prints until it ends.

        :raises TimeoutError: after ``within`` seconds
        """
        assert self._process.stdout
        async with asyncio.timeout(deadline(within)):
            return (await self._process.stdout.read()).decode().splitlines()

    async def kill(self) -> None:
        """End it with SIGKILL, and return when it has ended. Not an error if it has already."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        # communicate(), unlike wait(), also closes the pipes.
        await self._process.communicate()

    async def terminate(self, *, within: float = 20.0) -> int:
        """Send it SIGTERM, and return its exit status."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        return await self.wait(within=within)

    async def wait(self, *, within: float = 20.0) -> int:
        """Return its exit status when it ends by itself.

        :raises TimeoutError: after ``within`` seconds
        """
        async with asyncio.timeout(deadline(within)):
            await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode


class Spawn:
    """Starts children; those still running when the test ends are killed.

    :param loop: the module whose event loop they run on
    """

    def __init__(self, loop: str) -> None:
        self._loop = loop
        self._children: list[Child] = []

    async def __call__(self, function: Callable[..., Any], *arguments: Any) -> Child:
        """Call ``function``, plain or async, in a new Python process.

        :param function: one at the top of a module, which prints ``ready`` (flushed) when it is
        :param arguments: what JSON can hold
        """
        return await self.program(
            *("-c", _CALL, self._loop, function.__module__, function.__qualname__, json.dumps(arguments))
        )

    async def program(self, *arguments: str) -> Child:
        """Start ``python *arguments`` in the root of the checkout."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT
        )
        child = Child(process)
        self._children.append(child)
        return child

    async def kill_all(self) -> None:
        for child in self._children:
            await child.kill()


@pytest_asyncio.fixture
async def spawn(event_loop_module: str) -> AsyncIterator[Spawn]:
    """Start child Python processes: ``child = await spawn(function, *arguments)``."""
    spawn = Spawn(event_loop_module)
    yield spawn
    await spawn.kill_all()
