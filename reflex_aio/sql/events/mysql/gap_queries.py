"""MySQL and MariaDB: the statements that look at ids."""

from reflex_aio.event import NOOP_FOREIGN_ID, NOOP_TYPE
from reflex_aio.sql.events.settings import EventsSettings

__all__ = ["GapQueries"]


class GapQueries:
    """The statements that look at the ids of one table.

    :param table: its name with the database, quoted
    """

    def __init__(self, settings: EventsSettings, table: str) -> None:
        columns = settings.columns
        event_id, kind, foreign_id = f"`{columns.id}`", f"`{columns.type}`", f"`{columns.foreign_id}`"
        self.look = (
            f"SELECT MIN({event_id}), MAX({event_id}), @@GLOBAL.read_only FROM {table} WHERE {event_id} > %s"
        )
        """The next id after one, the greatest, and whether the server is read-only."""
        self.next = f"SELECT MIN({event_id}) FROM {table} WHERE {event_id} > %s"
        """The next id after one."""
        self.ids = (
            f"SELECT {event_id} FROM {table} WHERE {event_id} BETWEEN %s AND %s ORDER BY {event_id} LIMIT %s"
        )
        """Ids from one to another, at most so many."""
        first = f"SELECT {event_id} AS id, {kind} <=> {NOOP_TYPE} AND {foreign_id} <=> '{NOOP_FOREIGN_ID}' AS noop"
        first += f" FROM {table} ORDER BY {event_id} LIMIT %s"
        self.bottom = (
            f"SELECT MIN({event_id}), (SELECT MIN(id) FROM ({first}) AS first WHERE NOT noop) FROM {table}"
        )
        """The least id, and the least of one that is no noop, if it is among the first so many."""
