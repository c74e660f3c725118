"""MySQL and MariaDB: what it takes to write and read events."""

from typing import Any, ClassVar

from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.events.dialect import EventsDialect, EventsWriter
from reflex_aio.sql.events.loader import Loader
from reflex_aio.sql.events.mysql.loader import MysqlLoader
from reflex_aio.sql.events.mysql.queries import head_sql
from reflex_aio.sql.events.mysql.writer import MysqlWriter
from reflex_aio.sql.events.settings import EventsSettings, Wakeups

__all__ = ["MysqlEventsDialect"]


class MysqlEventsDialect(EventsDialect):
    """Events on MySQL and MariaDB."""

    wakeups: ClassVar[tuple[Wakeups, ...]] = "commit", None
    topic: ClassVar[str] = (
        "SELECT CONCAT(DATABASE(), '.', REPLACE(%s, '`', '')) FROM dual WHERE DATABASE() IS NOT NULL"
    )

    def table(self, settings: EventsSettings) -> str:
        return settings.schema.table.quoted("`")

    def writer(self, settings: EventsSettings) -> EventsWriter:
        return MysqlWriter(settings, self.table(settings))

    def head(self, settings: EventsSettings) -> str:
        return head_sql(settings, self.table(settings))

    def notify(self) -> str:
        raise NotImplementedError("MySQL and MariaDB have no NOTIFY")

    def loader(
        self, settings: EventsSettings, driver: Driver, pool: Any, *, primary: Any, fill_gaps: bool
    ) -> Loader:
        return MysqlLoader(settings, driver, pool, primary=primary, fill_gaps=fill_gaps)
