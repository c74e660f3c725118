"""The states of consumers, and health checks over HTTP: an ASGI application that needs no framework."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

import msgspec

from reflex_aio.checks import check_bool

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
    """Its last run failed, or the lease store did; it is retried after a delay. This lasts until it has consumed the
    event at which it failed."""
    BLOCKED = "blocked"
    """The table of its events was replaced: it waits until somebody sets its cursor."""
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
    """Serves ``/livez``, ``/readyz`` and ``/statusz``, mounted in an application or on its own.

    Mount it once, where the application is made, and set :attr:`source` at each start::

        health = HealthApp()

        @asynccontextmanager
        async def lifespan(app):
            async with Runner(specs) as runner:
                health.source = runner
                yield

        app = FastAPI(lifespan=lifespan)
        app.mount("/health", health)                            # FastAPI, Starlette: /health/livez

    ``/livez`` has status 200, or 503 if the process should be restarted. Any response shows that the event loop runs.
    ``/readyz`` has status 200 if every consumer runs or waits for its lease, else 503 and a list of those that do not.
    ``/statusz`` returns the status of each consumer as JSON. Without a source, the process is live but not ready.

    :param show_errors: include the messages of errors in ``/statusz``, not only their types. They may contain tokens or
        addresses: use it only where nobody but operators can send requests
    """

    def __init__(self, *, show_errors: bool = False) -> None:
        self.source: HealthSource | None = None
        """The :class:`~reflex_aio.runner.runner.Runner` whose health is reported; ``None`` before the first start."""
        self._show_errors = check_bool("show_errors", show_errors)

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
        source = self.source
        live = source is None or source.live
        return (200, _TEXT, b"ok\n") if live else (503, _TEXT, b"restart required\n")

    def _readyz(self) -> tuple[int, bytes, bytes]:
        source = self.source
        if source is None:
            return 503, _TEXT, b"not ready\nno runner has started\n"
        if source.ready:
            return 200, _TEXT, b"ok\n"
        lines = [
            f"{name}: {status.state.value}\n"
            for name, status in source.statuses().items()
            if status.state not in (ConsumerState.RUNNING, ConsumerState.STANDBY)
        ]
        return 503, _TEXT, ("not ready\n" + "".join(lines)).encode()

    def _statusz(self) -> tuple[int, bytes, bytes]:
        source = self.source
        consumers = [] if source is None else list(source.statuses().values())
        if not self._show_errors:
            # The type alone: it is up to the first colon.
            consumers = [replace(each, error=each.error.partition(":")[0]) for each in consumers]
        status = {
            "live": source is None or source.live,
            "ready": source is not None and source.ready,
            "consumers": consumers,
        }
        return 200, _JSON, msgspec.json.encode(status)


async def _run_lifespan(
    receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})
