"""Streams over gRPC, in both directions: serve sources, and be a source of what another service serves.

The protocol is that of luno/reflex, so that either end may be a Go service; Python ends send each other pages
of events instead of single ones. Works on :mod:`grpc.aio` alone.
"""

from reflex_aio.rpc.client import RemoteSource
from reflex_aio.rpc.options import channel_options, server_options
from reflex_aio.rpc.server import StreamServer

__all__ = ["RemoteSource", "StreamServer", "channel_options", "server_options"]
