"""A process in prometheus-client's multiprocess mode, whose consumer handles some events and fails on some more."""

import asyncio
import sys

from prometheus_client import CollectorRegistry

from reflex_aio import Consumer, Event, Spec, run
from reflex_aio.ext.prometheus import PrometheusHooks
from reflex_aio.memory import MemoryCursorStore, MemoryEvents


async def main(name: str, handled: int, failed: int) -> None:
    hooks = PrometheusHooks(CollectorRegistry())
    hooks.page_loaded("t", 1, 0.1)
    events, store = MemoryEvents(clock=lambda: 0.0), MemoryCursorStore()
    for foreign_id in range(1, handled + 1):
        await events.insert(foreign_id, 1)

    async def handle(event: Event) -> None:
        if int(event.id) > handled:
            raise ValueError

    consumer = Consumer(name, handle)
    await run(Spec(events, store, consumer, to_head=True, hooks=hooks))
    await events.insert(7, 1)
    for _ in range(failed):
        try:
            await run(Spec(events, store, consumer, to_head=True, hooks=hooks))
        except ValueError:
            pass


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
