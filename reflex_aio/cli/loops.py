"""The event loop of commands that run for long."""

import asyncio
from collections.abc import Callable

__all__ = ["fastest_loop"]


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes an event loop of uvloop where that is installed, and otherwise ``None``, for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
