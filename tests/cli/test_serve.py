"""serve: event streams of tables over gRPC, in a process."""

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2

from reflex_aio import StreamStopped
from reflex_aio.rpc import RemoteSource, channel_options
from tests.cli.commands import reflex_aio
from tests.cli.conftest import Service, events
from tests.fix_processes import Child, Spawn

pytestmark = pytest.mark.asyncio


async def serving(service: Service, spawn: Spawn, *arguments: str) -> tuple[Child, str]:
    """Start the command, and return its process and its address."""
    child = await spawn.program(
        "-m", "reflex_aio", "serve", *service.options, "--listen", "localhost:0", "--json", *arguments
    )  # fmt: skip
    return child, json.loads(await child.line())["address"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_table_is_served_until_a_signal(service: Service, spawn: Spawn, number: int) -> None:
    await service.insert(3)
    child, address = await serving(service, spawn)
    async with (
        grpc.aio.insecure_channel(address, channel_options()) as channel,
        RemoteSource(channel).stream() as stream,
    ):
        assert [(await anext(stream)).id for _ in range(3)] == ["1", "2", "3"]
        await service.insert(1)
        assert (await anext(stream)).id == "4"
        os.kill(child.pid, number)
        # The status makes clients reconnect.
        with pytest.raises(StreamStopped):
            await anext(stream)
    assert await child.wait() == 0


async def test_tables_are_served_by_the_given_names(service: Service, spawn: Spawn) -> None:
    await service.insert(1)
    other = events.replace(name="other_events", metadata=True)
    await other.create(service.connection)
    await other.insert(service.connection, 7, 1, metadata=b"more")
    _, address = await serving(
        service, spawn, "--stream", "users=user_events", "--stream", "others=other_events"
    )
    for name, line in {"users": ["1", "1"], "others": ["1", "7", "more"]}.items():
        shown = await reflex_aio("tail", "--grpc", address, "--stream", name, "--to-head")
        assert shown.done().out.split()[3:] == line
    assert (await reflex_aio("tail", "--grpc", address, "--to-head")).status == 3


async def test_health_checks_are_answered_unless_turned_off(service: Service, spawn: Spawn) -> None:
    for arguments, known in (((), True), (("--no-health", "--no-reflection"), False)):
        _, address = await serving(service, spawn, *arguments)
        async with grpc.aio.insecure_channel(address) as channel:
            check: Any = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            request = health_pb2.HealthCheckRequest(service="reflexpb.Reflex")
            if known:
                assert (await check(request)).status == health_pb2.HealthCheckResponse.SERVING
            else:
                with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
                    await check(request)


async def test_it_serves_over_tls_and_requires_client_certificates(
    service: Service, spawn: Spawn, tmp_path: Path
) -> None:
    await service.insert(1)
    authority, own = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    files = ["--tls-certificate", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    _, address = await serving(service, spawn, *files)
    tail = ["tail", "--grpc", address, "--to-head"]
    assert len((await reflex_aio(*tail, "--tls-ca", str(tmp_path / "ca.pem"))).done().lines) == 1
    assert (await reflex_aio(*tail)).status == 5
    own.cert_pem.write_to_path(str(tmp_path / "own.pem"))
    _, address = await serving(service, spawn, *files, "--tls-client-ca", str(tmp_path / "own.pem"))
    tail[2] = address
    assert (await reflex_aio(*tail, "--tls-ca", str(tmp_path / "ca.pem"))).status == 5


# Errors.


async def test_a_missing_table_ends_it_at_once(service: Service) -> None:
    outcome = await service.reflex_aio("serve", "--stream", "users=user_events", "--stream", "x=nothing")
    assert outcome.failed(3).startswith("nothing: the table does not exist")


async def test_a_port_in_use_is_an_error(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        outcome = await service.reflex_aio("serve", "--listen", address)
    assert outcome.failed(1).startswith(f"--listen '{address}': the port is in use")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--stream", "users"], "--stream 'users' is not accepted: accepted is name=table, each name once"),
        (["--stream", "a=events", "--stream", "a=cursors"], "--stream 'a=cursors' is not accepted"),
        (["--stream", "a=b.c.d"], "--events: table name 'b.c.d' has more than two parts"),
        (["--tls-key", __file__], "--tls-certificate and --tls-key must be used together"),
        (["--tls-client-ca", __file__], "--tls-certificate and --tls-key must be used together"),
    ],
)  # fmt: skip
async def test_wrong_arguments_are_refused(arguments: list[str], reason: str) -> None:
    assert (await reflex_aio("serve", *arguments)).failed(2).startswith(reason)
