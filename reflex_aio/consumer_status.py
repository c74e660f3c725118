"""What a hosted consumer is doing."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

__all__ = ["ConsumerState", "ConsumerStatus", "HealthSource"]


class ConsumerState(StrEnum):
    """What a hosted consumer is doing."""

    STARTING = "starting"
    """Nothing is known yet: it is being looked whether it is to run here, or its stream is being opened."""
    STANDBY = "standby"
    """It waits for its lease, as another process is to run it."""
    RUNNING = "running"
    """Its stream is open."""
    BACKING_OFF = "backing off"
    """Its last run failed, or its lease could not be asked for; it tries again in a moment."""
    DRAINING = "draining"
    """It takes no further event, and finishes those that it has."""
    STOPPED = "stopped"
    """It has ended, and won't start again by itself."""


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """What a hosted consumer is doing, and since when.

    :param consumer: its name
    :param since: when it began to do so, by this process's clock, in UTC
    :param restarts: how many of its runs have failed
    :param error: what the last failure was, with its type; ``""`` if there was none
    :param failed_at: when that was
    :param cursor: the cursor of the last event that it is known to have consumed; ``""`` if that isn't known
    :param epoch: of the lease that it runs under, if there is one
    """

    consumer: str
    state: ConsumerState
    since: datetime
    restarts: int = 0
    error: str = ""
    failed_at: datetime | None = None
    cursor: str = ""
    epoch: int | None = None


class HealthSource(Protocol):
    """What health checks ask: a :class:`~reflex_aio.hosting.runner.Runner` is one."""

    @property
    def live(self) -> bool:
        """Whether no restart of the process is called for."""
        ...

    @property
    def ready(self) -> bool:
        """Whether every consumer runs, or stands by for its lease."""
        ...

    def statuses(self) -> Mapping[str, ConsumerStatus]:
        """Return what each consumer is doing, by name."""
        ...
