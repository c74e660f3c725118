"""The gRPC health service, for a stream server or for a runner. Requires grpcio-health-checking (extra ``health``)."""

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

from reflex_aio.checks import check_seconds
from reflex_aio.health import ConsumerState, HealthSource
from reflex_aio.tasks import Tasks

__all__ = ["RunnerHealth"]

_SERVING_STATES = (ConsumerState.RUNNING, ConsumerState.STANDBY)


class ServerHealth:
    """Reports SERVING for a server and its services, until it is stopped.

    :param server: the server that responds to the health checks
    :param services: the full names of its services
    :param tasks: runs the work that can't be awaited here
    """

    def __init__(self, server: grpc.aio.Server, services: Iterable[str], tasks: Tasks) -> None:
        self._servicer = aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        tasks.start(self._set_serving(services), name="reflex_aio health")

    async def _set_serving(self, services: Iterable[str]) -> None:
        for service in services:
            await self._servicer.set(service, HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Report NOT_SERVING from now on."""
        await self._servicer.enter_graceful_shutdown()


class RunnerHealth:
    """Answers gRPC health checks for a runner::

        health = RunnerHealth(runner)
        health.add_to(server)
        async with health:
            await server.start()

    The service ``live`` is meant for a liveness probe, ``ready`` for a readiness probe; the empty name is the same as
    ``ready``. ``consumer:send-email`` stands for the consumer ``send-email``, which is serving while it runs or waits
    for its lease. A server can have one health service: don't combine this with that of a
    :class:`~reflex_aio.rpc.StreamServer`.

    :param source: the object whose health is reported, such as a :class:`~reflex_aio.runner.runner.Runner`
    :param every: the interval between two checks of the source, in seconds
    :raises ValueError: if ``every`` isn't above 0
    """

    def __init__(self, source: HealthSource, *, every: float = 0.5) -> None:
        self._source = source
        self._every = check_seconds("every", every)
        self._servicer = aio.HealthServicer()
        self._tasks = Tasks()
        self._reported: dict[str, bool] = {}

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the service with ``server``, before it is started."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def __aenter__(self) -> Self:
        await self._report()
        self._tasks.start(self._report_periodically(), name="reflex_aio runner health")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tasks.aclose()
        await self._servicer.enter_graceful_shutdown()

    async def _report_periodically(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self._report()

    async def _report(self) -> None:
        source = self._source
        serving = {"": source.ready, "ready": source.ready, "live": source.live}
        for name, status in source.statuses().items():
            serving[f"consumer:{name}"] = status.state in _SERVING_STATES
        for service, is_serving in serving.items():
            # Clients that watch a service must be notified of changes only.
            if self._reported.get(service) is not is_serving:
                self._reported[service] = is_serving
                await self._servicer.set(
                    service, HealthCheckResponse.SERVING if is_serving else HealthCheckResponse.NOT_SERVING
                )
