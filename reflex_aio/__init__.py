"""Events for mutable SQL tables, streamed in order to every consumer: asyncio-native, on PostgreSQL and gRPC.

An event is a pointer, not a payload: *user 7 was created*. It is inserted in the transaction that changes the data, so
there is exactly one event per change. Consumers stream the events, and keep a cursor each.

Tables are in :mod:`reflex_aio.sql`, remote streams in :mod:`reflex_aio.rpc`; this module imports neither. All errors
are in :mod:`reflex_aio.errors`; stores and events in memory, for tests, in :mod:`reflex_aio.memory`.
"""

from reflex_aio.attempts import Attempts, AttemptStore
from reflex_aio.backoff import Backoff
from reflex_aio.consumer import Consumer
from reflex_aio.cursor import CursorStore
from reflex_aio.errors import (
    ConnectionLost,
    CursorAhead,
    CursorConflict,
    DatabaseError,
    InvalidCursor,
    LeaseLost,
    ReflexError,
    RemoteError,
    SchemaError,
    StreamClosed,
    StreamStopped,
    TableRefused,
    TableReplaced,
    is_expected,
)
from reflex_aio.event import Event, EventBatch
from reflex_aio.hooks import Hooks
from reflex_aio.lease import Lease, LeaseState, LeaseStore
from reflex_aio.runner.runner import Runner
from reflex_aio.running.run import run
from reflex_aio.running.supervisor import run_forever
from reflex_aio.spec import Spec
from reflex_aio.stream import EventStream, Source, StreamOptions

__all__ = [
    "AttemptStore",
    "Attempts",
    "Backoff",
    "ConnectionLost",
    "Consumer",
    "CursorAhead",
    "CursorConflict",
    "CursorStore",
    "DatabaseError",
    "Event",
    "EventBatch",
    "EventStream",
    "Hooks",
    "InvalidCursor",
    "Lease",
    "LeaseLost",
    "LeaseState",
    "LeaseStore",
    "ReflexError",
    "RemoteError",
    "Runner",
    "SchemaError",
    "Source",
    "Spec",
    "StreamClosed",
    "StreamOptions",
    "StreamStopped",
    "TableRefused",
    "TableReplaced",
    "is_expected",
    "run",
    "run_forever",
]
