"""Ways in which a server goes away and comes back."""

from __future__ import annotations  # asyncpg.Connection takes a parameter in its stubs only

import os
import signal
from collections.abc import Awaitable, Callable

import asyncpg

from reflex_aio.ext.embedded import EmbeddedPostgres


async def _restart(server: EmbeddedPostgres, victim: asyncpg.Connection) -> None:
    await server.restart("fast")


async def _crash(server: EmbeddedPostgres, victim: asyncpg.Connection) -> None:
    await server.restart("immediate")


async def _kill_backend(server: EmbeddedPostgres, victim: asyncpg.Connection) -> None:
    # The server recovers from a crash, but hasn't started anew: the time of its start stays as it was.
    os.kill(victim.get_server_pid(), signal.SIGKILL)


CRASHES: dict[str, Callable[[EmbeddedPostgres, asyncpg.Connection], Awaitable[None]]] = {
    "restart": _restart,
    "crash": _crash,
    "killed backend": _kill_backend,
}
