"""Ways of consuming beside one event after the other. None of them knows a database or gRPC."""

from reflex_aio.patterns.ack import AckConsumer, AckEvent
from reflex_aio.patterns.batch import BatchConsumer
from reflex_aio.patterns.best_effort import BestEffortConsumer
from reflex_aio.patterns.bootstrap import BootstrapStore
from reflex_aio.patterns.concurrent import ConcurrentConsumer
from reflex_aio.patterns.dead_letter import DeadLetterConsumer, ErrorRecorder
from reflex_aio.patterns.parallel import Shard, by_event_id, by_event_type, by_foreign_id, shard_of, shards
from reflex_aio.patterns.poll import PollSource
from reflex_aio.patterns.read_through import ReadThroughStore
from reflex_aio.patterns.retry import retrying
from reflex_aio.patterns.wait import wait_for_event
from reflex_aio.running.watermark import Watermark

__all__ = [
    "AckConsumer",
    "AckEvent",
    "BatchConsumer",
    "BestEffortConsumer",
    "BootstrapStore",
    "ConcurrentConsumer",
    "DeadLetterConsumer",
    "ErrorRecorder",
    "PollSource",
    "ReadThroughStore",
    "Shard",
    "Watermark",
    "by_event_id",
    "by_event_type",
    "by_foreign_id",
    "retrying",
    "shard_of",
    "shards",
    "wait_for_event",
]
