"""The gRPC health service. The one home of grpcio-health-checking (extra ``health``)."""

from collections.abc import Iterable

import grpc

try:
    from grpc_health.v1 import health_pb2_grpc
    from grpc_health.v1.health import aio
    from grpc_health.v1.health_pb2 import HealthCheckResponse
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "the health service needs grpcio-health-checking: pip install 'reflex-aio[health]'", name=exc.name
    ) from exc

from reflex_aio.tasks import Tasks


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
