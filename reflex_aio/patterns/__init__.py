"""Ways of consuming beside one event after the other. None of them knows a database or gRPC."""

from reflex_aio.patterns.ack import AckConsumer, AckEvent
from reflex_aio.patterns.batch import BatchConsumer
from reflex_aio.patterns.concurrent import ConcurrentConsumer
from reflex_aio.watermark import Watermark

__all__ = ["AckConsumer", "AckEvent", "BatchConsumer", "ConcurrentConsumer", "Watermark"]
