"""The states of consumers, and health checks over HTTP: an ASGI application that needs no framework."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

import msgspec

__all__ = ["ConsumerState", "ConsumerStatus", "HealthApp"]


class ConsumerState(StrEnum):
    """The state of a consumer in a runner."""

    STARTING = "starting"
    """Its lease is not known yet, or its stream is being opened."""
    STANDBY = "standby"
    """It waits for its lease, since it is assigned to another process."""
    RUNNING = "running"
    """Its stream is open."""
    BACKING_OFF = "backing off"
    """Its last run failed, or the lease store did; it is retried after a delay."""
    DRAINING = "draining"
    """It receives no more events, and finishes those in hand."""
    STOPPED = "stopped"
    """It has ended, and is not restarted."""


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """The state of a consumer in a runner, with details.

    :param consumer: its name
    :param state: its state
    :param since: the time of the last change of state, by this process's clock, in UTC
    :param restarts: the number of runs that failed
    :param error: the type and message of the last failure; ``""`` if there was none
    :param failed_at: the time of the last failure
    :param cursor: the cursor of the last event that it is known to have consumed; ``""`` if it is unknown
    :param epoch: the epoch of its lease, if it has one
    """

    consumer: str
    state: ConsumerState
    since: datetime
    restarts: int = 0
    error: str = ""
    failed_at: datetime | None = None
    cursor: str = ""
    epoch: int | None = None


class HealthSource(Protocol):
    """The object whose health is checked: a :class:`~reflex_aio.runner.runner.Runner`."""

    @property
    def live(self) -> bool:
        """False if the process should be restarted."""
        ...

    @property
    def ready(self) -> bool:
        """True if every consumer runs, or waits for its lease."""
        ...

    def statuses(self) -> Mapping[str, ConsumerStatus]:
        """Return the status of each consumer by name."""
        ...


Message: TypeAlias = MutableMapping[str, Any]

_TEXT = b"text/plain; charset=utf-8"
_JSON = b"application/json"


class HealthApp:
    """Serves ``/livez``, ``/readyz`` and ``/statusz``, mounted in an application or on its own::

        app.mount("/health", HealthApp(runner))                 # FastAPI, Starlette: /health/livez

    ``/livez`` has status 200, or 503 if the process should be restarted. Any response shows that the event loop runs.
    ``/readyz`` has status 200 if every consumer runs or waits for its lease, else 503 and a list of those that do not.
    ``/statusz`` returns the status of each consumer as JSON. It has error messages, so it is for operators only.

    :param source: the :class:`~reflex_aio.runner.runner.Runner` whose health is checked
    """

    def __init__(self, source: HealthSource) -> None:
        self._source = source

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer a request of ASGI 3.

        :raises ValueError: if it is not an HTTP request
        """
        if scope["type"] == "lifespan":
            await _run_lifespan(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, send)
        else:
            raise ValueError(f"a {scope['type']} request: accepted is http")

    async def _answer(self, scope: Message, send: Callable[[Message], Awaitable[None]]) -> None:
        # In ASGI, the path of a mounted application begins with its mount point. Some frameworks remove it.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        page = {"/livez": self._livez, "/readyz": self._readyz, "/statusz": self._statusz}.get(path)
        if page is None:
            status, kind, body = 404, _TEXT, b"not found: the paths are /livez, /readyz and /statusz\n"
        elif scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, _TEXT, b"method not allowed: use GET\n"
        else:
            status, kind, body = page()
        headers = [
            (b"content-type", kind),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _livez(self) -> tuple[int, bytes, bytes]:
        return (200, _TEXT, b"ok\n") if self._source.live else (503, _TEXT, b"restart required\n")

    def _readyz(self) -> tuple[int, bytes, bytes]:
        if self._source.ready:
            return 200, _TEXT, b"ok\n"
        lines = [
            f"{name}: {status.state.value}\n"
            for name, status in self._source.statuses().items()
            if status.state not in (ConsumerState.RUNNING, ConsumerState.STANDBY)
        ]
        return 503, _TEXT, ("not ready\n" + "".join(lines)).encode()

    def _statusz(self) -> tuple[int, bytes, bytes]:
        source = self._source
        consumers = list(source.statuses().values())
        return (
            200,
            _JSON,
            msgspec.json.encode({"live": source.live, "ready": source.ready, "consumers": consumers}),
        )


async def _run_lifespan(
    receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})
