"""PostgreSQL: its SQL, how its gaps are resolved, and how its tables are made."""

from reflex_aio.sql.events.postgres.dialect import PostgresEventsDialect

__all__ = ["PostgresEventsDialect"]
