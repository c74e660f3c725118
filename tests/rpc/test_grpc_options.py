"""The options are those of gRPC, and their values are checked."""

import grpc
import pytest

from reflex_aio.rpc import channel_options, server_options
from tests.rpc.serving import started

# The shortest interval between pings that servers without options accept, in milliseconds: 300 s in gRPC's C core, Go
# and Java. See https://github.com/grpc/proposal/blob/master/A8-client-side-keepalive.md
ACCEPTED = 300_000


def test_every_server_accepts_the_default_pings_of_a_client() -> None:
    channel = dict(channel_options())
    assert ACCEPTED * 1.1 <= channel["grpc.keepalive_time_ms"] < 350_000
    # Servers accept no pings without calls at all.
    assert "grpc.keepalive_permit_without_calls" not in channel


def test_a_server_pings_and_permits_the_pings_of_every_client() -> None:
    server = dict(server_options())
    assert server["grpc.keepalive_time_ms"] == 30_000
    least = server["grpc.http2.min_ping_interval_without_data_ms"]
    assert dict(channel_options(keepalive=least / 1000))["grpc.keepalive_time_ms"] == least


def test_both_ends_wait_as_long_for_the_answer_to_a_ping() -> None:
    for options in (dict(channel_options()), dict(server_options())):
        assert options["grpc.keepalive_timeout_ms"] == options["grpc.http2.ping_timeout_ms"] == 10_000
        assert options["grpc.http2.max_pings_without_data"] == 0


@pytest.mark.asyncio
async def test_two_servers_do_not_share_a_port() -> None:
    first, second = grpc.aio.server(options=server_options()), grpc.aio.server(options=server_options())
    async with started(first) as target:
        with pytest.raises(RuntimeError, match="Failed to bind"):
            second.add_insecure_port(target)
    await second.stop(None)


def test_keepalive_can_be_off() -> None:
    options = dict(channel_options(keepalive=None) + server_options(keepalive=None))
    assert not [name for name in options if "keepalive" in name]


def test_sizes_and_numbers_are_left_to_grpc_unless_given() -> None:
    assert "grpc.max_receive_message_length" not in dict(channel_options())
    assert dict(channel_options(max_message=1 << 23))["grpc.max_receive_message_length"] == 1 << 23
    options = dict(server_options(max_message=1 << 23, max_streams=100))
    assert options["grpc.max_send_message_length"] == 1 << 23
    assert options["grpc.max_concurrent_streams"] == 100


def test_clients_reconnect_with_a_short_backoff() -> None:
    options = dict(channel_options())
    assert options["grpc.initial_reconnect_backoff_ms"] == 100
    assert options["grpc.max_reconnect_backoff_ms"] == 5_000
    with pytest.raises(ValueError, match="max_backoff 0 is out of range"):
        channel_options(max_backoff=0)


@pytest.mark.parametrize("values", [{"keepalive": 9.9}, {"keepalive_timeout": 0}, {"max_message": 0}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    [name] = values
    for options in (channel_options, server_options):
        with pytest.raises(ValueError, match=f"{name} .* is out of range"):
            options(**values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_streams 0 is out of range"):
        server_options(max_streams=0)
