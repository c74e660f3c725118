"""``run``: what it says of targets that it can't run. Those that it can are in tests/runner."""

import socket

import pytest

from tests.cli.commands import call

SERVICES = "tests.runner.services"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("services", "run 'services' is not accepted: accepted is module:object"),
        ("tests.nowhere:runner", "run 'tests.nowhere:runner': there is no module tests.nowhere"),
        (f"{SERVICES}:nothing", f"run '{SERVICES}:nothing': {SERVICES} has no attribute nothing"),
        (
            f"{SERVICES}:no_runner",
            f"run '{SERVICES}:no_runner' is a int: accepted is a Runner, or a function",
        ),
        (f"{SERVICES}:makes_something_else", f"run '{SERVICES}:makes_something_else' is a int: accepted is"),
        (
            f"{SERVICES}:wants_more",
            f"run '{SERVICES}:wants_more' needs arguments (dsn): accepted is a Runner",
        ),
    ],
)
def test_target_that_is_no_runner_is_told_in_a_line(target: str, told: str) -> None:
    assert call("run", target).failed(2).startswith(told)


def test_port_that_is_taken_is_told_in_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = call("run", f"{SERVICES}:runner", "--health-port", str(port)).failed(1)
    assert told.startswith(f"--health-port: 127.0.0.1:{port}: ")
