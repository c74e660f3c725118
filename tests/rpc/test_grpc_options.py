"""The options are those of gRPC, and their values are checked."""

import pytest

from reflex_aio.rpc import channel_options, server_options


def test_both_ends_ping_by_default_and_the_server_permits_it() -> None:
    channel, server = dict(channel_options()), dict(server_options())
    assert (
        server["grpc.http2.min_ping_interval_without_data_ms"] <= channel["grpc.keepalive_time_ms"] == 30_000
    )
    assert channel["grpc.keepalive_timeout_ms"] == server["grpc.keepalive_timeout_ms"] == 10_000
    assert channel["grpc.http2.max_pings_without_data"] == server["grpc.http2.max_pings_without_data"] == 0


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
