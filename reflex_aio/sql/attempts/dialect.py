"""What a dialect has to do to keep failed attempts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import AttemptsSchema

__all__ = ["AttemptsDialect"]


class AttemptsDialect(ABC):
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
