"""The rows of an errors table, and the statements on them that each database implements."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.schema.names import ErrorsSchema

__all__ = ["ConsumerError", "ErrorStatus", "ErrorsDialect", "is_event_id"]


class ErrorStatus(IntEnum):
    """The status of an error, which is also the type of the event that reports it.

    Numbers from 3 are free for an application's own statuses; luno/reflex knows 1 only.
    """

    RECORDED = 1
    RESOLVED = 2


@dataclass(frozen=True, slots=True)
class ConsumerError:
    """A row of an errors table: the error of a consumer on an event."""

    id: str
    consumer: str
    event_id: str
    message: str
    status: int
    """An :class:`ErrorStatus`, or a number of the application's own."""
    created_at: datetime
    updated_at: datetime
    """The time at which its message or status was last set."""

    @property
    def swapped(self) -> bool:
        """True if the consumer's name is in the column of the event id, and the event id in that of the consumer.

        The dead-letter consumer of luno/reflex writes such rows, as it passes these two in the wrong order.
        """
        return is_event_id(self.consumer) and not is_event_id(self.event_id)


def is_event_id(text: str) -> bool:
    """Return whether ``text`` is an event id of a table, an integer, rather than the name of a consumer."""
    return text.isascii() and text.isdecimal()


class ErrorsDialect(ABC):
    """The statements on an errors table in one database. It has no state but their texts.

    Rows have the fields of a :class:`ConsumerError`, in their order. Ids are passed as the texts of their values.
    """

    @abstractmethod
    def __init__(self, schema: ErrorsSchema) -> None: ...

    @abstractmethod
    async def insert(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, message: str, status: int
    ) -> str | None:
        """Insert an error and return its id; ``None`` if there is one of this consumer on this event."""

    @abstractmethod
    async def set_message(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, message: str
    ) -> tuple[str, int] | None:
        """Set the message of the error of a consumer on an event, and return its id and status; ``None`` if none.

        The row stays locked until the transaction ends.
        """

    @abstractmethod
    async def get(self, driver: Driver, connection: Any, error_id: str) -> Row | None:
        """Return the row of an error, or ``None``."""

    @abstractmethod
    async def find(
        self,
        driver: Driver,
        connection: Any,
        *,
        consumer: str | None,
        swapped: str | None,
        status: int | None,
        after: str,
        limit: int,
    ) -> Sequence[Row]:
        """Return the rows with ids above ``after``, in order of the ids, of one consumer or status if given.

        :param swapped: also return the rows with this text as the event id, if ``consumer`` is given
        """

    @abstractmethod
    async def set_status(
        self, driver: Driver, connection: Any, error_id: str, status: int, unchanged_since: datetime | None
    ) -> str | None:
        """Set the status of an error and return its consumer; ``None`` if it has that status, or does not exist.

        :param unchanged_since: set it only if the row was last changed at this time
        """
