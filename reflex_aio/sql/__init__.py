"""Tables of events, cursors, leases, failed attempts and dead letters in PostgreSQL, MySQL and MariaDB.

One table object serves every client library: the class of the connection or pool that is passed selects the driver.
Only the client libraries that are used are imported.
"""

from reflex_aio.sql.attempts.table import AttemptsTable
from reflex_aio.sql.cursors.atomic import AtomicBatchConsumer, AtomicConsumer
from reflex_aio.sql.cursors.table import CursorsTable
from reflex_aio.sql.dead_letters.dialect import ConsumerError, ErrorStatus
from reflex_aio.sql.dead_letters.table import ErrorsTable
from reflex_aio.sql.drivers.dsn import open_pool
from reflex_aio.sql.events.insert import transaction
from reflex_aio.sql.events.table import EventsTable
from reflex_aio.sql.leases.store import LeasesTable
from reflex_aio.sql.retention.partitions import Partitions
from reflex_aio.sql.retention.prune import Retention
from reflex_aio.sql.schema.names import CursorColumns, ErrorColumns, EventColumns
from reflex_aio.sql.wakeups.notifier import LocalNotifier, Notifier
from reflex_aio.sql.wakeups.notify_session import NotifierTimeouts
from reflex_aio.sql.wakeups.postgres_notifier import PostgresNotifier, close_notifiers

__all__ = [
    "AtomicBatchConsumer",
    "AtomicConsumer",
    "AttemptsTable",
    "ConsumerError",
    "CursorColumns",
    "CursorsTable",
    "ErrorColumns",
    "ErrorStatus",
    "ErrorsTable",
    "EventColumns",
    "EventsTable",
    "LeasesTable",
    "LocalNotifier",
    "Notifier",
    "NotifierTimeouts",
    "Partitions",
    "PostgresNotifier",
    "Retention",
    "close_notifiers",
    "open_pool",
    "transaction",
]
