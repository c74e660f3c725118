"""PostgreSQL: the implementation of the events dialect, and inserting events."""

from collections.abc import Hashable
from typing import Any, ClassVar

from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.events.dialect import EventsDialect, EventsWriter
from reflex_aio.sql.events.loader import Loader
from reflex_aio.sql.events.postgres.loader import PostgresLoader
from reflex_aio.sql.events.postgres.queries import head_sql, insert_many_sql, insert_sql
from reflex_aio.sql.events.settings import EventsSettings, Wakeups
from reflex_aio.sql.events.values import NewEvents, Values, column_picker

__all__ = ["PostgresEventsDialect"]


class PostgresEventsDialect(EventsDialect):
    """Events on PostgreSQL."""

    wakeups: ClassVar[tuple[Wakeups, ...]] = "commit", "transaction", "trigger", None
    notify: ClassVar[str] = "SELECT pg_notify($1, $2)"
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

    def loader(
        self, settings: EventsSettings, driver: Driver, pool: Any, *, primary: Any, fill_gaps: bool
    ) -> Loader:
        return PostgresLoader(settings, driver, pool, primary=primary, fill_gaps=fill_gaps)


class _Writer(EventsWriter):
    def __init__(self, settings: EventsSettings, table: str) -> None:
        self._schema = settings.schema
        self._pick_columns = column_picker(settings.schema)
        self._insert = insert_sql(settings, table)
        self._insert_many = insert_many_sql(settings, table, one_type=False)
        self._insert_many_of_one_type = insert_many_sql(settings, table, one_type=True)

    async def insert(self, driver: Driver, connection: Any, values: Values) -> Row | None:
        rows = await driver.fetch(connection, self._insert, *self._pick_columns(values))
        return rows[0] if rows else None

    async def insert_many(
        self, driver: Driver, connection: Any, events: NewEvents
    ) -> tuple[list[str], Hashable]:
        schema, types = self._schema, events.types
        more = [events.metadata] * schema.metadata + [events.traces] * schema.trace
        one_type = len(set(types)) == 1
        [(ids, table)] = await driver.fetch(
            connection,
            self._insert_many_of_one_type if one_type else self._insert_many,
            *events.foreign_ids,
            types[0] if one_type else ",".join(map(str, types)),
            *more,
        )
        return ids.split(",") if ids else [], table
