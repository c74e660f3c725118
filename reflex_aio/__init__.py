"""Events for mutable SQL tables, streamed in order to every consumer: asyncio-native, on PostgreSQL and gRPC.

An event is a pointer, not a payload: *user 7 was created*. It is inserted in the transaction that changes the
data, so there is exactly one event per change; consumers stream the events and keep a cursor each.

The tables are in :mod:`reflex_aio.sql`, remote streams in :mod:`reflex_aio.rpc`. This module imports neither.
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
    ErrorNotFound,
    EventNotFound,
    FilterError,
    InvalidCursor,
    LeaseLost,
    MessageTooLarge,
    MetadataError,
    ReflexError,
    RemoteError,
    SchemaError,
    StreamClosed,
    StreamStopped,
    TableNotFound,
    TableRefused,
    TableReplaced,
    UnknownStream,
    is_expected,
)
from reflex_aio.event import Event, EventBatch
from reflex_aio.health import ConsumerState, ConsumerStatus, HealthSource
from reflex_aio.hooks import Hooks
from reflex_aio.lease import Lease, LeaseState, LeaseStore
from reflex_aio.memory import MemoryAttemptStore, MemoryCursorStore, MemoryEvents, MemoryLeaseStore
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
    "ConsumerState",
    "ConsumerStatus",
    "CursorAhead",
    "CursorConflict",
    "CursorStore",
    "DatabaseError",
    "ErrorNotFound",
    "Event",
    "EventBatch",
    "EventNotFound",
    "EventStream",
    "FilterError",
    "HealthSource",
    "Hooks",
    "InvalidCursor",
    "Lease",
    "LeaseLost",
    "LeaseState",
    "LeaseStore",
    "MemoryAttemptStore",
    "MemoryCursorStore",
    "MemoryEvents",
    "MemoryLeaseStore",
    "MessageTooLarge",
    "MetadataError",
    "ReflexError",
    "RemoteError",
    "Runner",
    "SchemaError",
    "Source",
    "Spec",
    "StreamClosed",
    "StreamOptions",
    "StreamStopped",
    "TableNotFound",
    "TableRefused",
    "TableReplaced",
    "UnknownStream",
    "is_expected",
    "run",
    "run_forever",
]
