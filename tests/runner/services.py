"""Services that run in child processes: each tells in lines what it does.

``SECONDS`` in the environment is how long an event takes, ``DRAIN`` how long draining may.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from reflex_aio import Consumer, Event, Runner, Spec
from reflex_aio.health import HealthApp
from reflex_aio.memory import MemoryCursorStore, MemoryEvents


def say(text: str) -> None:
    print(text, flush=True)


@asynccontextmanager
async def service() -> AsyncIterator[Runner]:
    """A runner of one consumer, and what is closed after it."""
    source, store = MemoryEvents(), MemoryCursorStore()
    for number in range(3):
        await source.insert(number, 1)

    async def handle(event: Event) -> None:
        say(f"handling {event.id}")
        await asyncio.sleep(float(os.environ.get("SECONDS", "0")))
        say(f"handled {event.id}")

    spec = Spec(source, store, Consumer("mail", handle))
    yield Runner([spec], drain=float(os.environ.get("DRAIN", "20")))
    say(f"closed at {await store.get('mail')}")


async def made_by_a_coroutine() -> Runner:
    return Runner([Spec(MemoryEvents(), MemoryCursorStore(), Consumer("mail", ignore))])


async def ignore(event: Event) -> None: ...


# Made when the module is loaded, where there is no event loop.
runner = Runner([Spec(MemoryEvents(), MemoryCursorStore(), Consumer("mail", ignore))])
no_runner = 42


def wants_more(dsn: str) -> Runner:
    raise AssertionError(dsn)


def makes_something_else() -> int:
    return 42


def serve_fastapi() -> None:
    """A FastAPI service with a runner in its lifespan, served by uvicorn on a port that it prints."""
    # Other services in this module start in half the time without them.
    import uvicorn
    from fastapi import FastAPI

    health = HealthApp()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service() as runner, runner:
            health.source = runner
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/health", health)

    class Server(uvicorn.Server):
        async def startup(self, *args: object, **kwargs: object) -> None:
            await super().startup(*args, **kwargs)  # type: ignore[arg-type]
            say(f"port {self.servers[0].sockets[0].getsockname()[1]}")

    Server(uvicorn.Config(app, port=0, log_level="warning")).run()
    say("over")
