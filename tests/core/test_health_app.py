"""Health checks over HTTP: what a probe is answered."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from reflex_aio.health import ConsumerState, ConsumerStatus, HealthApp

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
            "bill": ConsumerStatus("bill", ConsumerState.BACKING_OFF, NOON, 3, "ValueError: x", NOON),
        }


async def get(
    path: str, *, live: bool = True, ready: bool = True, method: str = "GET", root: str = ""
) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("nothing has to be received")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "root_path": root}
    await HealthApp(Told(live=live, ready=ready))(scope, receive, send)
    start, body = sent
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
            "error": "ValueError: x",
            "failed_at": "2026-01-02T12:00:00Z",
            "cursor": "",
            "epoch": None,
        },
    ]


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

    await HealthApp(Told())({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(ValueError, match="a websocket request: accepted is http"):
        await HealthApp(Told())({"type": "websocket"}, receive, send)
