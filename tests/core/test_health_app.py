"""Health checks over HTTP: what a probe is answered."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI

from reflex_aio import Consumer, Event, Runner, Spec
from reflex_aio.health import ConsumerState, ConsumerStatus, HealthApp
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Told:
    """A health source that is told what to say."""

    def __init__(self, *, live: bool = True, ready: bool = True) -> None:
        self.live = live
        self.ready = ready

    def statuses(self) -> dict[str, ConsumerStatus]:
        return {
            "mail": ConsumerStatus("mail", ConsumerState.RUNNING, NOON, cursor="7", epoch=2),
            "bill": ConsumerStatus("bill", ConsumerState.BACKING_OFF, NOON, 3, "ValueError: a: token", NOON),
        }


async def get(path: str, **state: Any) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return the answer of an application in this state, which goes to ``app_with`` and ``answer``."""
    asked = {name: state.pop(name) for name in ("method", "root") if name in state}
    return await answer(app_with(**state), path, **asked)


def app_with(*, live: bool = True, ready: bool = True, started: bool = True, **options: Any) -> HealthApp:
    app = HealthApp(**options)
    app.source = Told(live=live, ready=ready) if started else None
    return app


async def answer(
    app: Any, path: str, *, method: str = "GET", root: str = ""
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return the status, the headers and the body that an ASGI application answers with."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("nothing has to be received")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "root_path": root, "headers": []}
    await app(scope, receive, send)
    start, body = sent[:2]
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    return start["status"], dict(start["headers"]), body["body"]


@pytest.mark.parametrize(
    ("path", "state", "status", "body"),
    [
        ("/livez", {}, 200, b"ok\n"),
        ("/livez", {"ready": False}, 200, b"ok\n"),
        ("/livez", {"live": False}, 503, b"restart required\n"),
        ("/readyz", {}, 200, b"ok\n"),
        ("/readyz", {"ready": False}, 503, b"not ready\nbill: backing off\n"),
        ("/livez", {"started": False}, 200, b"ok\n"),
        ("/readyz", {"started": False}, 503, b"not ready\nno runner has started\n"),
        ("/", {}, 404, b"not found: the paths are /livez, /readyz and /statusz\n"),
    ],
)
async def test_probes_are_answered_by_their_status(path: str, state: Any, status: int, body: bytes) -> None:
    found, headers, text = await get(path, **state)
    assert (found, text) == (status, body)
    assert headers[b"content-length"] == str(len(body)).encode()
    assert headers[b"cache-control"] == b"no-store"


async def test_status_tells_of_each_consumer() -> None:
    status, headers, body = await get("/statusz", ready=False)
    assert (status, headers[b"content-type"]) == (200, b"application/json")
    told = json.loads(body)
    assert (told["live"], told["ready"]) == (True, False)
    assert told["consumers"] == [
        {
            "consumer": "mail",
            "state": "running",
            "since": "2026-01-02T12:00:00Z",
            "restarts": 0,
            "error": "",
            "failed_at": None,
            "cursor": "7",
            "epoch": 2,
        },
        {
            "consumer": "bill",
            "state": "backing off",
            "since": "2026-01-02T12:00:00Z",
            "restarts": 3,
            "error": "ValueError",
            "failed_at": "2026-01-02T12:00:00Z",
            "cursor": "",
            "epoch": None,
        },
    ]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/statusz"])
async def test_error_messages_are_shown_only_if_asked_for(path: str) -> None:
    _, _, hidden = await get(path, ready=False)
    _, _, shown = await get(path, ready=False, show_errors=True)
    assert b"token" not in hidden
    assert (b"ValueError: a: token" in shown) is (path == "/statusz")
    with pytest.raises(TypeError, match="show_errors 'yes' is a str"):
        HealthApp(show_errors="yes")  # type: ignore[arg-type]


async def test_without_a_runner_there_are_no_consumers() -> None:
    _, _, body = await get("/statusz", started=False)
    assert json.loads(body) == {"live": True, "ready": False, "consumers": []}


async def test_head_has_no_body_and_other_methods_are_refused() -> None:
    status, headers, body = await get("/livez", method="HEAD")
    assert (status, headers[b"content-length"], body) == (200, b"3", b"")
    status, headers, _ = await get("/livez", method="POST")
    assert (status, headers[b"allow"]) == (405, b"GET, HEAD")


@pytest.mark.parametrize("path", ["/health/livez", "/livez"])
async def test_it_can_be_mounted(path: str) -> None:
    assert (await get(path, root="/health"))[0] == 200


async def test_servers_that_begin_with_a_lifespan_are_answered() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await HealthApp()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(ValueError, match="a websocket request: accepted is http"):
        await HealthApp()({"type": "websocket"}, receive, send)


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_each_start_of_an_application_answers_for_itself() -> None:
    async def ignore(event: Event) -> None: ...

    health = HealthApp()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Runner([Spec(MemoryEvents(), MemoryCursorStore(), Consumer("mail", ignore))]) as runner:
            health.source = runner
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/health", health)

    async def status() -> int:
        return (await answer(app, "/health/readyz"))[0]

    assert await status() == 503
    for _ in range(2):
        async with app.router.lifespan_context(app):

            async def is_ready() -> bool:
                return await status() == 200

            await eventually(is_ready, "the runner of this start to be ready")
        assert await status() == 503
