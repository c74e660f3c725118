"""Options for gRPC channels and servers that stream, as gRPC takes them.

Source of their meaning: https://github.com/grpc/grpc/blob/master/doc/keepalive.md
"""

from typing import TypeVar

__all__ = ["channel_options", "server_options"]

N = TypeVar("N", int, float)
Options = list[tuple[str, int]]

# How often a client may ping before the server takes it for an attack, in seconds. The default of gRPC is
# 300.
_LEAST_PING_INTERVAL = 10.0

# How long a client waits before it first tries to connect again, in seconds.
_LEAST_BACKOFF = 0.1


def channel_options(
    *,
    keepalive: float | None = 30.0,
    keepalive_timeout: float = 10.0,
    max_backoff: float = 5.0,
    max_message: int | None = None,
) -> Options:
    """Return options for ``grpc.aio.insecure_channel`` or ``secure_channel``.

    A stream may be silent for hours. With keepalive a connection that was lost without a word is noticed, and
    one that is idle isn't dropped on the way.

    :param keepalive: ping the server when it was silent for this long, in seconds; ``None``: never. A server
        that wasn't made with :func:`server_options`, or a like policy, drops connections that ping more often
        than every 300
    :param keepalive_timeout: take the connection for lost when a ping has no answer after this long, in
        seconds
    :param max_backoff: wait no longer than this between two attempts to connect, in seconds. gRPC waits up to
        120, in which calls fail at once, though the server be back
    :param max_message: the largest message to receive, in bytes; ``None``: 4 MiB, the default of gRPC
    :raises ValueError: if a value is out of its range
    """
    options = _keepalive(keepalive, keepalive_timeout)
    options += [
        ("grpc.initial_reconnect_backoff_ms", round(_LEAST_BACKOFF * 1000)),
        ("grpc.max_reconnect_backoff_ms", round(_at_least(_LEAST_BACKOFF, max_backoff=max_backoff) * 1000)),
    ]
    if max_message is not None:
        options.append(("grpc.max_receive_message_length", _at_least(1, max_message=max_message)))
    return options


def server_options(
    *,
    keepalive: float | None = 30.0,
    keepalive_timeout: float = 10.0,
    max_message: int | None = None,
    max_streams: int | None = None,
) -> Options:
    """Return options for ``grpc.aio.server``.

    :param keepalive: ping a client when it was silent for this long, in seconds; ``None``: never
    :param keepalive_timeout: take the connection for lost when a ping has no answer after this long, in
        seconds
    :param max_message: the largest message to send, in bytes; ``None``: no limit
    :param max_streams: how many calls one connection may have at a time; ``None``: no limit. For all
        connections together there is ``maximum_concurrent_rpcs`` of ``grpc.aio.server``
    :raises ValueError: if a value is out of its range
    """
    options = _keepalive(keepalive, keepalive_timeout)
    options.append(("grpc.http2.min_ping_interval_without_data_ms", round(_LEAST_PING_INTERVAL * 1000)))
    if max_message is not None:
        options.append(("grpc.max_send_message_length", _at_least(1, max_message=max_message)))
    if max_streams is not None:
        options.append(("grpc.max_concurrent_streams", _at_least(1, max_streams=max_streams)))
    return options


def _keepalive(period: float | None, timeout: float) -> Options:
    if period is None:
        return []
    milliseconds = round(_at_least(0.1, keepalive_timeout=timeout) * 1000)
    return [
        ("grpc.keepalive_time_ms", round(_at_least(_LEAST_PING_INTERVAL, keepalive=period) * 1000)),
        ("grpc.keepalive_timeout_ms", milliseconds),
        # Without it a ping is waited for for a minute, whatever the timeout of keepalive (seen on 1.85).
        ("grpc.http2.ping_timeout_ms", milliseconds),
        # Otherwise pings end after the second one without an event in between.
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _at_least(least: N, **named: N) -> N:
    [(name, value)] = named.items()
    if not value >= least:
        raise ValueError(f"{name} {value!r} is out of range: accepted is a number from {least}")
    return value
