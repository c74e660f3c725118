"""Which events a table has, and how far a cursor is behind them: what operators look at."""

from dataclasses import dataclass

__all__ = ["Backlog", "Extent"]


@dataclass(frozen=True, slots=True)
class Extent:
    """The first and the last of the ids that a table has, those of noops included; ``""`` if it is empty."""

    oldest: str
    newest: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a consumer has still to come to."""

    events: int
    """How many events are after its cursor."""
    seconds: float
    """How old the first of these is, by the database's clock; 0 if there is none."""
