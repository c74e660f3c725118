"""Child processes that run an async function: ``python -m benchmarks.processes MODULE:FUNCTION ...``."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

__all__ = ["Child", "child"]


class Child:
    """A child process that is spoken to by lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def read(self) -> str:
        """Return the next line that the child prints.

        :raises EOFError: if it has ended
        """
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise EOFError(f"the child process ended with status {await self._process.wait()}")
        return line.decode().rstrip("\n")

    async def write(self, line: str) -> None:
        """Send the child a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()


@asynccontextmanager
async def child(function: str, *arguments: str) -> AsyncIterator[Child]:
    """Run ``module:function`` in a process of its own, and interrupt it at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.processes", function, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,
    )
    try:
        yield Child(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        await process.wait()


def main(function: str, *arguments: str) -> None:
    module, _, name = function.partition(":")
    work: Any = getattr(import_module(module), name)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work(*arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
