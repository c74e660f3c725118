"""Child processes that run an async function: ``python -m benchmarks.processes LOOP MODULE:FUNCTION ...``."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

__all__ = ["Child", "child", "standard_input"]


class Child:
    """A child process, with lines as messages in both directions."""

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
    """Run ``module:function`` in a process of its own, on the same kind of event loop, and cancel it on exit."""
    # asyncio or uvloop.
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.processes", loop, function, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,
    )
    try:
        yield Child(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def standard_input() -> asyncio.StreamReader:
    """Return a reader of the lines that are sent to the child."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def main(function: str, *arguments: str) -> None:
    """Run the function until it returns, or this process receives SIGTERM."""
    module, _, name = function.partition(":")
    work = asyncio.ensure_future(getattr(import_module(module), name)(*arguments))
    loop = asyncio.get_running_loop()
    # Not SIGINT: children of a background job of a shell ignore it.
    loop.add_signal_handler(signal.SIGTERM, work.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await work
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=import_module(sys.argv[1]).new_event_loop) as runner:
        runner.run(main(*sys.argv[2:]))
