"""PostgreSQL: what it takes to write and read events."""

import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from reflex_aio.sql.dialects.events import EventsDialect, EventsWriter
from reflex_aio.sql.dialects.postgres.loader import PostgresLoader
from reflex_aio.sql.dialects.postgres.queries import head_sql, insert_many_sql, insert_sql
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.new_events import Values, present
from reflex_aio.sql.settings import EventsSettings, Wakeups
from reflex_aio.sql.streaming.loader import Loader

__all__ = ["PostgresEvents"]


class PostgresEvents(EventsDialect):
    """Events on PostgreSQL."""

    wakeups: ClassVar[tuple[Wakeups, ...]] = "commit", "transaction", "trigger", None
    topic: ClassVar[str] = """
        SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = to_regclass($1)
    """

    def table(self, settings: EventsSettings) -> str:
        return settings.schema.table.quoted('"')

    def writer(self, settings: EventsSettings) -> EventsWriter:
        return _Writer(settings, self.table(settings))

    def head(self, settings: EventsSettings) -> str:
        return head_sql(settings, self.table(settings))

    def notify(self) -> str:
        return "SELECT pg_notify($1, $2)"

    def loader(
        self, settings: EventsSettings, driver: Driver, pool: Any, *, settle_on: Any, fence: bool
    ) -> Loader:
        return PostgresLoader(settings, driver, pool, settle_on=settle_on, fence=fence)


class _Writer(EventsWriter):
    def __init__(self, settings: EventsSettings, table: str) -> None:
        self._schema = settings.schema
        self._insert = insert_sql(settings, table)
        self._insert_many = insert_many_sql(settings, table)

    async def insert(self, driver: Driver, connection: Any, values: Values) -> Row | None:
        rows = await driver.fetch(connection, self._insert, *present(self._schema, values))
        return rows[0] if rows else None

    async def insert_many(self, driver: Driver, connection: Any, events: Sequence[Values]) -> Sequence[Row]:
        foreign_ids, types, *more = present(
            self._schema, [list(column) for column in zip(*events, strict=True)]
        )
        separator = _separator(foreign_ids)
        return await driver.fetch(
            connection,
            self._insert_many,
            *(separator.join(foreign_ids), separator, ",".join(map(str, types)), *more),
        )


def _separator(texts: Sequence[str]) -> str:
    """Return a character that is in none of the texts, which hold no NUL."""
    together = "".join(texts)
    return next(character for character in map(chr, range(1, sys.maxunicode)) if character not in together)
