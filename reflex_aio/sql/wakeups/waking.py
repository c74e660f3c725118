"""Waiting for a while, or until new events are told of."""

import asyncio

__all__ = ["wakes_within"]

# A wake-up shortens the wait, but no more than to this, in seconds.
_AT_LEAST = 0.003


async def wakes_within(seconds: float, woken: asyncio.Event | None) -> bool:
    """Wait, and tell whether ``woken`` was set meanwhile, after a moment in which that doesn't count."""
    if woken is None:
        await asyncio.sleep(seconds)
        return False
    woken.clear()
    await asyncio.sleep(min(seconds, _AT_LEAST))
    try:
        async with asyncio.timeout(seconds - _AT_LEAST):
            await woken.wait()
    except TimeoutError:
        return False
    return True
