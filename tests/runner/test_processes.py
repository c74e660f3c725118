"""Runners in processes of their own: in a FastAPI application, by the command, and what signals do."""

import asyncio
import json
import signal
import socket
import urllib.error
import urllib.request
from functools import partial

import pytest

from tests.fix_processes import Child, Spawn
from tests.runner.services import serve_fastapi
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio


async def get(port: str | int, path: str) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=deadline(10)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()

    return await asyncio.to_thread(ask)


async def is_answered(port: int, status: int) -> bool:
    """Tell whether a runner's readiness is answered with a status."""
    try:
        return (await get(port, "/readyz"))[0] == status
    except urllib.error.URLError:
        return False


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children take a second for each event."""
    monkeypatch.setenv("SECONDS", "1")


# In a lifespan.


async def test_fastapi_service_drains_on_sigterm(spawn: Spawn, slow: None) -> None:
    child = await spawn(serve_fastapi)
    told = {await child.line(), await child.line()}
    assert "handling 1" in told
    [port] = [line.removeprefix("port ") for line in told if line.startswith("port ")]
    assert await get(port, "/health/livez") == (200, "ok\n")
    assert await get(port, "/health/readyz") == (200, "ok\n")
    status, body = await get(port, "/health/statusz")
    [consumer] = json.loads(body)["consumers"]
    assert (status, consumer["consumer"], consumer["state"]) == (200, "mail", "running")
    child.send(signal.SIGTERM)
    lines = await child.rest()
    begun = [line for line in lines if line.startswith("handling")]
    handled = [line.removeprefix("handled ") for line in lines if line.startswith("handled")]
    # What was in hand was finished, and its cursor stored, before the rest of the service was closed.
    assert handled
    assert len(handled) == len(begun) + 1 < 3
    assert lines[-1] in (f"closed at {handled[-1]}", "over")
    assert f"closed at {handled[-1]}" in lines


# By the command.


async def command(spawn: Spawn, target: str, *options: str) -> Child:
    return await spawn.program("-m", "reflex_aio", "run", target, *options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_first_signal_drains(spawn: Spawn, slow: None, number: signal.Signals) -> None:
    child = await command(spawn, "tests.runner.services:service")
    await child.until("handling 1")
    child.send(number)
    assert await child.rest() == ["handled 1", "closed at 1"]
    assert await child.wait() == 0


async def test_consumer_that_does_not_finish_in_time_is_cut_off(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS", "1000")
    monkeypatch.setenv("DRAIN", "0.2")
    child = await command(spawn, "tests.runner.services:service")
    await child.until("handling 1")
    child.send(signal.SIGTERM)
    assert await child.rest() == ["closed at "]
    assert await child.wait() == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_second_signal_ends_at_once(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, unused_port: int, number: signal.Signals, status: int
) -> None:
    monkeypatch.setenv("SECONDS", "1000")
    child = await command(spawn, "tests.runner.services:service", "--health-port", str(unused_port))
    await child.until("handling 1")
    child.send(signal.SIGTERM)
    # Two at once could be heard as one.
    await eventually(partial(is_answered, unused_port, 503), "the runner is draining")
    assert await get(unused_port, "/readyz") == (503, "not ready\nmail: draining\n")
    child.send(number)
    assert await child.rest() == ["closed at "]
    assert await child.wait() == status


@pytest.mark.parametrize("name", ["runner", "made_by_a_coroutine", "service"])
async def test_targets_of_each_kind_are_run(spawn: Spawn, name: str, unused_port: int) -> None:
    child = await command(spawn, f"tests.runner.services:{name}", "--health-port", str(unused_port))
    await eventually(partial(is_answered, unused_port, 200), "the service answers", within=20)
    assert await get(unused_port, "/livez") == (200, "ok\n")
    assert (await get(unused_port, "/nothing"))[0] == 404
    assert await child.terminate() == 0


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
