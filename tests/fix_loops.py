"""Which event loop the tests run on: asyncio's own, or uvloop."""

import asyncio
from collections.abc import Callable, Mapping
from importlib import import_module

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--event-loop",
        choices=["asyncio", "uvloop"],
        default="asyncio",
        help="whose event loop the tests run on, and the child processes that they start",
    )


@pytest.fixture(scope="session")
def event_loop_module(pytestconfig: pytest.Config) -> str:
    """The module whose ``new_event_loop`` makes the event loops: the option ``--event-loop``."""
    module: str = pytestconfig.getoption("--event-loop")
    return module


def pytest_asyncio_loop_factories(
    config: pytest.Config,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    module = config.getoption("--event-loop")
    return {module: import_module(module).new_event_loop}
