"""Events, cursors, leases and the errors of consumers in SQL tables.

One table object serves every client library: the connection or pool that is passed in decides. Only the libraries that
are used are imported.
"""

from reflex_aio.sql.atomic import AtomicBatchConsumer, AtomicConsumer, AtomicHandler, atomic_spec
from reflex_aio.sql.attempts import AttemptsTable
from reflex_aio.sql.backlog import Backlog, Extent
from reflex_aio.sql.cursors import CursorsTable, CursorState
from reflex_aio.sql.dead_letters import ConsumerError, ErrorsTable, ErrorStatus
from reflex_aio.sql.drivers.dsn import open_pool
from reflex_aio.sql.events import EventsTable
from reflex_aio.sql.leases import LeasesTable
from reflex_aio.sql.new_events import NewEvent
from reflex_aio.sql.partitions import Dropped, Partitions
from reflex_aio.sql.retention import Pruned, PruneLimit, Retention
from reflex_aio.sql.schema import AttemptColumns, CursorColumns, ErrorColumns, EventColumns, LeaseColumns
from reflex_aio.sql.settings import Inserter, PageLoader, Wakeups
from reflex_aio.sql.wakeups.exchange import Periods
from reflex_aio.sql.wakeups.hub import Hub, close_hubs
from reflex_aio.sql.wakeups.notifier import LocalNotifier, Notifier
from reflex_aio.sql.wakeups.transactions import transaction

__all__ = [
    "AtomicBatchConsumer",
    "AtomicConsumer",
    "AtomicHandler",
    "AttemptColumns",
    "AttemptsTable",
    "Backlog",
    "ConsumerError",
    "CursorColumns",
    "CursorState",
    "CursorsTable",
    "Dropped",
    "ErrorColumns",
    "ErrorStatus",
    "ErrorsTable",
    "EventColumns",
    "EventsTable",
    "Extent",
    "Hub",
    "Inserter",
    "LeaseColumns",
    "LeasesTable",
    "LocalNotifier",
    "NewEvent",
    "Notifier",
    "PageLoader",
    "Partitions",
    "Periods",
    "PruneLimit",
    "Pruned",
    "Retention",
    "Wakeups",
    "atomic_spec",
    "close_hubs",
    "open_pool",
    "transaction",
]
