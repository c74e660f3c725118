"""The event loop of commands that run for long."""

import asyncio

__all__ = ["fastest_loop"]


def fastest_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop of uvloop where that is installed, and otherwise of asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
