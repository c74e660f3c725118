"""What a dialect has to do to tell which events a table has, and how many of them a consumer has still to come to."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.events.settings import EventsSettings

__all__ = ["BacklogDialect", "backlog_dialect"]

_DIALECTS = {"mysql": "MysqlBacklog", "postgres": "PostgresBacklog"}


class BacklogDialect(ABC):
    """What is before and after the cursors of one dialect's events. Has no state."""

    @abstractmethod
    async def extent(
        self, driver: Driver, connection: Any, settings: EventsSettings
    ) -> tuple[int | None, int | None]:
        """Return the least and the greatest visible id, noops' too."""

    @abstractmethod
    async def after(
        self, driver: Driver, connection: Any, settings: EventsSettings, cursors: Sequence[int], limit: int
    ) -> Sequence[tuple[int, float | None]]:
        """Return for each cursor how many events are after it, and how old the first of these is.

        Noops don't count. The age is in seconds, by the database's clock; ``None`` if there is no such event.

        :param limit: count up to so many
        """


@cache
def backlog_dialect(name: str) -> BacklogDialect:
    """Return that of the dialect ``name``, which is a driver's ``dialect``."""
    module = import_module(f"reflex_aio.sql.retention.{name}_backlog")
    dialect: BacklogDialect = getattr(module, _DIALECTS[name])()
    return dialect
