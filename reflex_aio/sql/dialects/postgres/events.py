"""PostgreSQL: what it takes to write and read events."""

from typing import Any, ClassVar

from reflex_aio.sql.dialects.events import EventsDialect
from reflex_aio.sql.dialects.postgres.loader import PostgresLoader
from reflex_aio.sql.dialects.postgres.queries import head_sql, insert_many_sql, insert_sql
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.loader import Loader
from reflex_aio.sql.settings import EventsSettings

__all__ = ["PostgresEvents"]


class PostgresEvents(EventsDialect):
    """Events on PostgreSQL."""

    topic: ClassVar[str] = """
        SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = to_regclass($1)
    """

    def table(self, settings: EventsSettings) -> str:
        return settings.schema.table.quoted('"')

    def insert(self, settings: EventsSettings) -> str:
        return insert_sql(settings, self.table(settings))

    def insert_many(self, settings: EventsSettings) -> str:
        return insert_many_sql(settings, self.table(settings))

    def head(self, settings: EventsSettings) -> str:
        return head_sql(settings, self.table(settings))

    def notify(self) -> str:
        return "SELECT pg_notify($1, $2)"

    def loader(
        self, settings: EventsSettings, driver: Driver, pool: Any, *, settle_on: Any, fence: bool
    ) -> Loader:
        return PostgresLoader(settings, driver, pool, settle_on=settle_on, fence=fence)
