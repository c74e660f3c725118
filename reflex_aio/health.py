"""Health checks over HTTP: an ASGI application that needs no framework."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

import msgspec

__all__ = ["ConsumerState", "ConsumerStatus", "HealthApp"]


class ConsumerState(StrEnum):
    """What a hosted consumer is doing."""

    STARTING = "starting"
    """Nothing is known yet: it is being looked whether it is to run here, or its stream is being opened."""
    STANDBY = "standby"
    """It waits for its lease, as another process is to run it."""
    RUNNING = "running"
    """Its stream is open."""
    BACKING_OFF = "backing off"
    """Its last run failed, or its lease could not be asked for; it tries again in a moment."""
    DRAINING = "draining"
    """It takes no further event, and finishes those that it has."""
    STOPPED = "stopped"
    """It has ended, and won't start again by itself."""


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """What a hosted consumer is doing, and since when.

    :param consumer: its name
    :param since: when it began to do so, by this process's clock, in UTC
    :param restarts: how many of its runs have failed
    :param error: what the last failure was, with its type; ``""`` if there was none
    :param failed_at: when that was
    :param cursor: the cursor of the last event that it is known to have consumed; ``""`` if that isn't known
    :param epoch: of the lease that it runs under, if there is one
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
    """What health checks ask: a :class:`~reflex_aio.runner.runner.Runner` is one."""

    @property
    def live(self) -> bool:
        """Whether no restart of the process is called for."""
        ...

    @property
    def ready(self) -> bool:
        """Whether every consumer runs, or stands by for its lease."""
        ...

    def statuses(self) -> Mapping[str, ConsumerStatus]:
        """Return what each consumer is doing, by name."""
        ...


Message: TypeAlias = MutableMapping[str, Any]

_TEXT = b"text/plain; charset=utf-8"
_JSON = b"application/json"


class HealthApp:
    """Answers ``/livez``, ``/readyz`` and ``/statusz``, to be mounted in an application or served by itself::

        app.mount("/health", HealthApp(runner))                 # FastAPI, Starlette: /health/livez

    ``/livez`` has status 200, or 503 if the process should be restarted; that it is answered at all says that the event
    loop turns. ``/readyz`` has status 200, or 503 unless every consumer runs or stands by; its text says which doesn't.
    ``/statusz`` tells as JSON what each consumer is doing: with error messages, so it is for operators alone.

    :param source: whose health it is, such as a :class:`~reflex_aio.runner.runner.Runner`
    """

    def __init__(self, source: HealthSource) -> None:
        self._source = source

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer a request, as ASGI 3 has it.

        :raises ValueError: if it is none over HTTP
        """
        if scope["type"] == "lifespan":
            await _live_through(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, send)
        else:
            raise ValueError(f"a {scope['type']} request: accepted is http")

    async def _answer(self, scope: Message, send: Callable[[Message], Awaitable[None]]) -> None:
        # The path of a mounted application begins with where it is mounted, as ASGI has it; some leave that out.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        page = {"/livez": self._livez, "/readyz": self._readyz, "/statusz": self._statusz}.get(path)
        if page is None:
            status, kind, body = 404, _TEXT, b"not found: there are /livez, /readyz and /statusz\n"
        elif scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, _TEXT, b"method not allowed: GET is\n"
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
        return (200, _TEXT, b"ok\n") if self._source.live else (503, _TEXT, b"restart me\n")

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


async def _live_through(
    receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})
