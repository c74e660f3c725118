"""The gRPC health service. The one home of grpcio-health-checking (extra ``health``)."""

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import grpc

try:
    from grpc_health.v1 import health_pb2_grpc
    from grpc_health.v1.health import aio
    from grpc_health.v1.health_pb2 import HealthCheckResponse
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "the health service needs grpcio-health-checking: pip install 'reflex-aio[health]'", name=exc.name
    ) from exc

from reflex_aio.health import ConsumerState, HealthSource
from reflex_aio.tasks import Tasks

__all__ = ["RunnerHealth"]

_SERVING = (ConsumerState.RUNNING, ConsumerState.STANDBY)


class Health:
    """Says that a server and its services are serving, until told otherwise.

    :param server: the server that answers
    :param services: the full names of its services
    :param tasks: runs what can't be awaited here
    """

    def __init__(self, server: grpc.aio.Server, services: Iterable[str], tasks: Tasks) -> None:
        self._servicer = aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        tasks.start(self._serving(services), name="reflex_aio health")

    async def _serving(self, services: Iterable[str]) -> None:
        for service in services:
            await self._servicer.set(service, HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Say from now on that nothing is serving."""
        await self._servicer.enter_graceful_shutdown()


class RunnerHealth:
    """Answers gRPC health checks for a runner::

        health = RunnerHealth(runner)
        health.add_to(server)
        async with health:
            await server.start()

    Of the services that may be asked for, ``live`` is for a liveness probe, ``ready`` for a readiness probe, and so is
    the one without a name; ``consumer:send-email`` is the consumer ``send-email``, which is serving while it runs or
    stands by for its lease. One server has one health service: not that of a
    :class:`~reflex_aio.rpc.StreamServer` too.

    :param source: whose health it is, such as a :class:`~reflex_aio.runner.runner.Runner`
    :param every: how often to look, in seconds
    :raises ValueError: if ``every`` isn't above 0
    """

    def __init__(self, source: HealthSource, *, every: float = 0.5) -> None:
        if not every > 0:
            raise ValueError(f"every {every} is out of range: accepted is a number of seconds above 0")
        self._source = source
        self._every = every
        self._servicer = aio.HealthServicer()
        self._tasks = Tasks()
        self._told: dict[str, bool] = {}

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the service with ``server``, before it is started."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def __aenter__(self) -> Self:
        await self._tell()
        self._tasks.start(self._keep_telling(), name="reflex_aio runner health")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tasks.aclose()
        await self._servicer.enter_graceful_shutdown()

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self._tell()

    async def _tell(self) -> None:
        source = self._source
        serving = {"": source.ready, "ready": source.ready, "live": source.live}
        for name, status in source.statuses().items():
            serving[f"consumer:{name}"] = status.state in _SERVING
        for service, is_serving in serving.items():
            # Those who watch a service are to hear of changes alone.
            if self._told.get(service) is not is_serving:
                self._told[service] = is_serving
                await self._servicer.set(
                    service, HealthCheckResponse.SERVING if is_serving else HealthCheckResponse.NOT_SERVING
                )
