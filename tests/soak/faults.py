"""The faults of a soak test, one at a time, each with its beginning and its end."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fix_processes import Child
from tests.fix_proxy import Proxy

SETTLED = 10.0
"""Seconds after its start in which a process has got its usual size, and handles signals."""


@dataclass
class Worker:
    """A process that is started again whenever it has ended.

    :param name: unique, and the same for each of its processes
    :param log: the file of its log; beside it, with the suffix ``.tasks``, is the number of its asyncio tasks
    """

    name: str
    log: Path
    start: Callable[[], Awaitable[Child]]
    child: Child = field(init=False)
    began: float = 0.0
    stops: bool = True
    """Whether it ends by itself on SIGTERM."""

    async def restart(self) -> None:
        """Start a process, once there is none."""
        self.child = await self.start()
        self.began = time.time()


@dataclass
class Faults:
    """Injects faults at random, and records when each began and ended.

    :param restarts: the ways to end the database server and to start it again
    """

    chance: random.Random
    workers: Sequence[Worker]
    proxies: Sequence[Proxy]
    restarts: Sequence[Callable[[], Awaitable[None]]]
    counts: Counter[str] = field(default_factory=Counter)
    times: list[tuple[float, float, str]] = field(default_factory=list)
    """Beginning and end, as seconds since 1970, and the name of each fault."""
    wrong: list[str] = field(default_factory=list)
    """What no fault explains, such as a process that ends by itself."""

    async def inject(self, seconds: float) -> None:
        """Inject faults for a time, with pauses in between, and now and then a longer one."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            quiet = self.chance.random() < 0.1
            await asyncio.sleep(20.0 if quiet else self.chance.uniform(2.0, 6.0))
            self._look_for_ended()
            kinds = [
                self._kill,
                self._terminate,
                self._pause,
                self._reset,
                self._hole,
                self._refuse,
                self._strand,
            ]
            weights = [4, 4, 3, 3, 3, 2, 1]
            fault = self.chance.choices([*kinds, self._restart_server], [*weights, 1])[0]
            began, name = time.time(), fault.__name__.removeprefix("_")
            detail = await fault()
            self.counts[name] += 1
            self.times.append((began, time.time(), f"{name} {detail}"))
            for worker in self.workers:
                if worker.child.returncode is not None:
                    await worker.restart()

    def _look_for_ended(self) -> None:
        for worker in self.workers:
            if worker.child.returncode is not None:
                self.wrong.append(f"{worker.name} ended by itself, with status {worker.child.returncode}")

    async def _kill(self) -> str:
        worker = self.chance.choice(self.workers)
        await worker.child.kill()
        await worker.restart()
        return worker.name

    async def _terminate(self) -> str:
        # One that is being started has no handler of the signal yet.
        long_since = time.time() - SETTLED
        stopping = [each for each in self.workers if each.stops and each.began < long_since]
        if not stopping:
            return await self._kill()
        worker = self.chance.choice(stopping)
        status = await worker.child.terminate(within=60)
        if status != 0:
            self.wrong.append(f"{worker.name} ended with status {status} on SIGTERM")
        await worker.restart()
        return worker.name

    async def _pause(self) -> str:
        worker = self.chance.choice(self.workers)
        worker.child.send(signal.SIGSTOP)
        await asyncio.sleep(self.chance.uniform(1.0, 6.0))
        worker.child.send(signal.SIGCONT)
        return worker.name

    async def _reset(self) -> str:
        await self.chance.choice(self.proxies).drop_connections()
        return ""

    async def _hole(self) -> str:
        proxy = self.chance.choice(self.proxies)
        proxy.stall()
        await asyncio.sleep(self.chance.uniform(1.0, 8.0))
        proxy.resume()
        return ""

    async def _strand(self) -> str:
        self.chance.choice(self.proxies).strand()
        return ""

    async def _refuse(self) -> str:
        proxy = self.chance.choice(self.proxies)
        await proxy.stop()
        await asyncio.sleep(self.chance.uniform(0.5, 3.0))
        await proxy.start()
        return ""

    async def _restart_server(self) -> str:
        await self.chance.choice(self.restarts)()
        return ""
