"""MySQL and MariaDB: inserting and streaming events, and resolving gaps with noops."""

from reflex_aio.sql.events.mysql.dialect import MysqlEventsDialect

__all__ = ["MysqlEventsDialect"]
