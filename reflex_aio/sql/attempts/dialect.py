"""What a dialect has to do to keep failed attempts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import AttemptsSchema

__all__ = ["AttemptDialect", "attempt_dialect"]

_DIALECTS = {"mysql": "MysqlAttempts", "postgres": "PostgresAttempts"}


class AttemptDialect(ABC):
    """The attempts of one table, in one dialect. Has no state beside the statements' texts.

    What time it is, the database tells.
    """

    @abstractmethod
    def __init__(self, schema: AttemptsSchema) -> None: ...

    @abstractmethod
    async def of(self, driver: Driver, connection: Any, consumer: str) -> Sequence[tuple[str, int, float]]:
        """Return event ids, how many attempts there were, and the seconds until the next one."""

    @abstractmethod
    async def record(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, delay: float
    ) -> None:
        """Count an attempt; the next one is due in ``delay`` seconds."""

    @abstractmethod
    async def clear(self, driver: Driver, connection: Any, consumer: str, event_id: str) -> None:
        """Remove the row of a consumer and an event, if there is one."""


@cache
def attempt_dialect(name: str, schema: AttemptsSchema) -> AttemptDialect:
    """Return the attempts of the dialect ``name``, which is a driver's ``dialect``."""
    module = import_module(f"reflex_aio.sql.attempts.{name}")
    dialect: AttemptDialect = getattr(module, _DIALECTS[name])(schema)
    return dialect
