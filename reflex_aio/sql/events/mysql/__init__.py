"""MySQL and MariaDB: their SQL, how their gaps are resolved, and how their tables are made."""

from reflex_aio.sql.events.mysql.dialect import MysqlEventsDialect

__all__ = ["MysqlEventsDialect"]
