"""gRPC reflection. The one home of grpcio-reflection (extra ``reflection``)."""

from collections.abc import Iterable

import grpc

try:
    from grpc_reflection.v1alpha import reflection
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "reflection needs grpcio-reflection: pip install 'reflex-aio[reflection]'", name=exc.name
    ) from exc

from reflex_aio import pb


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Let ``server`` describe ``services``, given by their full names, from the package's own protos."""
    reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], server, pool=pb.pool)
