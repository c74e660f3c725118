"""Health checks of a runner over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from reflex_aio.health import ConsumerState, ConsumerStatus
from reflex_aio.rpc.health_service import RunnerHealth
from tests.rpc.serving import started
from tests.waiting import deadline

pytestmark = pytest.mark.asyncio

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


class Told:
    """A health source with values set by the test."""

    def __init__(self) -> None:
        self.live = True
        self.ready = False
        self.state = ConsumerState.STARTING

    def statuses(self) -> dict[str, ConsumerStatus]:
        return {"mail": ConsumerStatus("mail", self.state, datetime.now(UTC))}


@asynccontextmanager
async def checked(source: Told) -> AsyncIterator[Any]:
    server, health = grpc.aio.server(), RunnerHealth(source, every=0.01)
    health.add_to(server)
    async with health, started(server) as target, grpc.aio.insecure_channel(target) as channel:
        yield HealthStub(channel)


async def test_each_service_has_its_own_status() -> None:
    async with checked(Told()) as stub:
        reported = {
            service: (await stub.Check(HealthCheckRequest(service=service))).status
            for service in ("", "ready", "live", "consumer:mail")
        }
        assert reported == {
            "": NOT_SERVING,
            "ready": NOT_SERVING,
            "live": SERVING,
            "consumer:mail": NOT_SERVING,
        }
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(HealthCheckRequest(service="consumer:other"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("state", [ConsumerState.RUNNING, ConsumerState.STANDBY])
async def test_clients_that_watch_are_notified_of_changes(state: ConsumerState) -> None:
    source = Told()
    async with checked(source) as stub:
        watching = stub.Watch(HealthCheckRequest(service="consumer:mail"))
        assert (await watching.read()).status == NOT_SERVING
        source.state = state
        assert (await asyncio.wait_for(watching.read(), deadline(10))).status == SERVING
        source.state = ConsumerState.BACKING_OFF
        assert (await asyncio.wait_for(watching.read(), deadline(10))).status == NOT_SERVING
        watching.cancel()


async def test_period_is_checked() -> None:
    with pytest.raises(ValueError, match="every 0 is out of range"):
        RunnerHealth(Told(), every=0)
