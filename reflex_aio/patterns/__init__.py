"""Further consumers, shards and sources, which depend on neither databases nor gRPC."""

from reflex_aio.patterns.ack import AckConsumer, AckEvent
from reflex_aio.patterns.batch import BatchConsumer
from reflex_aio.patterns.concurrent import ConcurrentConsumer
from reflex_aio.patterns.failed_events import DeadLetterConsumer, ErrorRecorder, LogRecorder
from reflex_aio.patterns.parallel import Shard, by_event_id, by_event_type, by_foreign_id, shards
from reflex_aio.patterns.poll import PollSource
from reflex_aio.patterns.retry import retrying
from reflex_aio.patterns.wait import wait_for_event

__all__ = [
    "AckConsumer",
    "AckEvent",
    "BatchConsumer",
    "ConcurrentConsumer",
    "DeadLetterConsumer",
    "ErrorRecorder",
    "LogRecorder",
    "PollSource",
    "Shard",
    "by_event_id",
    "by_event_type",
    "by_foreign_id",
    "retrying",
    "shards",
    "wait_for_event",
]
