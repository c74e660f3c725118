"""PostgreSQL: inserting and streaming events, and resolving gaps by the locks of the sequence."""

from reflex_aio.sql.events.postgres.dialect import PostgresEventsDialect

__all__ = ["PostgresEventsDialect"]
