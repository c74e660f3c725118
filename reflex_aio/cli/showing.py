"""Events as they are written: a line for people, an object for programs."""

from typing import Any

from reflex_aio.cli.output import moment
from reflex_aio.event import Event

__all__ = ["event_line", "event_object", "readable"]


def event_line(event: Event) -> str:
    """Return an event as a line for people."""
    line = f"{event.id:>8}  {moment(event.timestamp)}  {event.type:>4}  {event.foreign_id}"
    return line if event.metadata is None else f"{line}  {readable(event.metadata)}"


def event_object(event: Event) -> dict[str, Any]:
    """Return an event as what JSON is made of."""
    return {
        "id": event.id,
        "type": event.type,
        "foreign_id": event.foreign_id,
        "timestamp": event.timestamp,
        "metadata": event.metadata,
        "trace": event.trace,
    }


def readable(data: bytes) -> str:
    """Return bytes as their text if that can be shown in a line, otherwise as hexadecimal digits."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return f"0x{data.hex()}"
    return text if text.isprintable() else repr(text)
