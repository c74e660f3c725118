"""What a dialect has to do to record the errors of consumers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.schema.names import ErrorsSchema

__all__ = ["ErrorsDialect"]


class ErrorsDialect(ABC):
    """The errors of one table, in one dialect. Has no state beside the statements' texts.

    Rows are id, consumer, event id, message, status, and the times of creation and of the last change. Ids are the text
    of their values.
    """

    @abstractmethod
    def __init__(self, schema: ErrorsSchema) -> None: ...

    @abstractmethod
    async def insert(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, message: str, status: int
    ) -> str | None:
        """Insert an error and return its id; ``None`` if there is one of this consumer on this event."""

    @abstractmethod
    async def repeat(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, message: str
    ) -> tuple[str, int] | None:
        """Give the error of a consumer on an event another message, and return its id and status.

        Its row is locked from then on. ``None`` if there is none.
        """

    @abstractmethod
    async def get(self, driver: Driver, connection: Any, error_id: str) -> Row | None:
        """Return an error's row, or ``None``."""

    @abstractmethod
    async def find(
        self,
        driver: Driver,
        connection: Any,
        *,
        consumer: str | None,
        status: int | None,
        after: str,
        limit: int,
    ) -> Sequence[Row]:
        """Return the rows after an id, in the order of ids, of one consumer or status if these are given."""

    @abstractmethod
    async def mark(
        self, driver: Driver, connection: Any, error_id: str, status: int, unchanged_since: datetime | None
    ) -> str | None:
        """Give an error another status and return its consumer; ``None`` if it has that status, or isn't there.

        :param unchanged_since: do so only if this is still the time of its last change
        """
