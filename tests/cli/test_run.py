"""run: its errors. Runs of runners are tested in tests/runner."""

import socket

import pytest

from tests.cli.commands import call

SERVICES = "tests.runner.services"


@pytest.mark.parametrize(
    ("target", "message"),
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
def test_a_target_that_is_not_a_runner_is_refused_in_one_line(target: str, message: str) -> None:
    assert call("run", target).failed(2).startswith(message)


def test_a_port_in_use_is_an_error_of_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = call("run", f"{SERVICES}:runner", "--health-port", str(port)).failed(1)
    assert error.startswith(f"--health-port: 127.0.0.1:{port}: ")
