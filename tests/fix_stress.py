"""The duration of the stress tests."""

import pytest

from tests.waiting import deadline

# Seconds beyond those of the stress itself: to start processes, to read on to the end, to compare.
_SPARE = 90.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stress-seconds", type=float, default=6.0, metavar="S", help="how long the stress test writes"
    )
    parser.addoption(
        "--atomic-events",
        type=int,
        default=1000,
        metavar="N",
        help="how many events atomic consumers consume under fire",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "stress_seconds" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(config.getoption("--stress-seconds") + deadline(_SPARE)))
        if "atomic_events" in getattr(item, "fixturenames", ()):
            # At least so many a second, kills included.
            item.add_marker(pytest.mark.timeout(deadline(config.getoption("--atomic-events") / 50 + _SPARE)))


@pytest.fixture
def stress_seconds(pytestconfig: pytest.Config) -> float:
    """How long to write, in seconds: the option ``--stress-seconds``."""
    seconds: float = pytestconfig.getoption("--stress-seconds")
    return seconds


@pytest.fixture
def atomic_events(pytestconfig: pytest.Config) -> int:
    """Over how many events replicas are killed: the option ``--atomic-events``."""
    count: int = pytestconfig.getoption("--atomic-events")
    return count
