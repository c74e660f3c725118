"""Options of gRPC channels and servers for long-lived streams: keepalive, reconnection, message size.

Source of their meaning: https://github.com/grpc/grpc/blob/master/doc/keepalive.md
"""

from reflex_aio.checks import check_count, check_seconds

__all__ = ["channel_options", "server_options"]

Options = list[tuple[str, int]]

# The interval in seconds below which a server with these options treats a client's pings as an attack.
_LEAST_PING_INTERVAL = 10.0

# Servers without such options, in Go, Java, C++ and Python, refuse intervals below 300 seconds. The rest is a margin
# for delays on the way, still below the 350 seconds after which some load balancers drop an idle connection.
_PING_INTERVAL_FOR_ANY_SERVER = 330.0

# The delay in seconds before a client first tries to connect again.
_LEAST_BACKOFF = 0.1


def channel_options(
    *,
    keepalive: float | None = _PING_INTERVAL_FOR_ANY_SERVER,
    keepalive_timeout: float = 10.0,
    max_backoff: float = 5.0,
    max_message: int | None = None,
) -> Options:
    """Return options for ``grpc.aio.insecure_channel`` and ``grpc.aio.secure_channel``.

    A stream may be silent for hours. Keepalive pings detect a connection that was lost silently, and prevent network
    equipment from dropping one that is idle. Streams of pages detect a lost server sooner, by heartbeats of their own.

    :param keepalive: ping the server after this time without activity, in seconds, at least 10; ``None``: never. Every
        server accepts the default. Servers with :func:`server_options` accept any value; others drop connections that
        ping more often than every 300 seconds
    :param keepalive_timeout: treat the connection as lost when a ping is not answered within this time, in seconds
    :param max_backoff: the longest delay between two attempts to connect, in seconds. gRPC's default is 120; during the
        delay calls fail at once, even if the server is back
    :param max_message: the maximum size of a received message, in bytes; ``None``: 4 MiB, gRPC's default
    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value is out of its range
    """
    options = _keepalive_options(keepalive, keepalive_timeout)
    options += [
        ("grpc.initial_reconnect_backoff_ms", round(_LEAST_BACKOFF * 1000)),
        (
            "grpc.max_reconnect_backoff_ms",
            round(check_seconds("max_backoff", max_backoff, least=_LEAST_BACKOFF) * 1000),
        ),
    ]
    if max_message is not None:
        options.append(("grpc.max_receive_message_length", check_count("max_message", max_message, least=1)))
    return options


def server_options(
    *,
    keepalive: float | None = 30.0,
    keepalive_timeout: float = 10.0,
    max_message: int | None = None,
    max_streams: int | None = None,
) -> Options:
    """Return options for ``grpc.aio.server``.

    A second server on the same port is refused: by default gRPC lets both listen, and each gets some of the calls.

    :param keepalive: ping a client after this time without activity, in seconds; ``None``: never
    :param keepalive_timeout: treat the connection as lost when a ping is not answered within this time, in seconds
    :param max_message: the maximum size of a sent message, in bytes; ``None``: no limit
    :param max_streams: the maximum number of concurrent calls per connection; ``None``: no limit. To limit the calls of
        all connections together, use ``maximum_concurrent_rpcs`` of ``grpc.aio.server``
    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value is out of its range
    """
    options = _keepalive_options(keepalive, keepalive_timeout)
    options += [
        ("grpc.http2.min_ping_interval_without_data_ms", round(_LEAST_PING_INTERVAL * 1000)),
        ("grpc.so_reuseport", 0),
    ]
    if max_message is not None:
        options.append(("grpc.max_send_message_length", check_count("max_message", max_message, least=1)))
    if max_streams is not None:
        options.append(("grpc.max_concurrent_streams", check_count("max_streams", max_streams, least=1)))
    return options


def _keepalive_options(period: float | None, timeout: float) -> Options:
    if period is None:
        return []
    milliseconds = round(check_seconds("keepalive_timeout", timeout, least=0.1) * 1000)
    return [
        (
            "grpc.keepalive_time_ms",
            round(check_seconds("keepalive", period, least=_LEAST_PING_INTERVAL) * 1000),
        ),
        ("grpc.keepalive_timeout_ms", milliseconds),
        # Without it gRPC waits a minute for the answer to a ping, whatever keepalive_timeout is (seen with 1.85).
        ("grpc.http2.ping_timeout_ms", milliseconds),
        # By default gRPC stops sending pings after the second one without data in between.
        ("grpc.http2.max_pings_without_data", 0),
    ]
