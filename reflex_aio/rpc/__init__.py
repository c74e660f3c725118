"""Event streams over gRPC: a server for sources, and a source that reads the stream of another service.

The wire protocol is that of luno/reflex, so that either end may be a Go service. Python ends exchange pages of events
instead of single events. Requires only :mod:`grpc.aio`.
"""

from reflex_aio.rpc.grpc_options import channel_options, server_options
from reflex_aio.rpc.remote_source import RemoteSource
from reflex_aio.rpc.stream_server import StreamServer

__all__ = ["RemoteSource", "StreamServer", "channel_options", "server_options"]
