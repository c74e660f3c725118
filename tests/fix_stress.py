"""How long the stress test runs, and with what luck."""

import secrets

import pytest

# Seconds beyond those of the stress itself: to start processes, to read on to the end, to compare.
_SPARE = 90


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stress-seconds", type=float, default=15.0, metavar="S", help="how long the stress test writes"
    )
    parser.addoption(
        "--atomic-events",
        type=int,
        default=1000,
        metavar="N",
        help="how many events atomic consumers consume under fire",
    )
    parser.addoption(
        "--stress-seed", type=int, default=None, metavar="N", help="repeat the stress test's random choices"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "stress_seconds" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(config.getoption("--stress-seconds") + _SPARE))
        if "atomic_events" in getattr(item, "fixturenames", ()):
            # At least so many a second, kills included.
            item.add_marker(pytest.mark.timeout(config.getoption("--atomic-events") / 50 + _SPARE))


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


@pytest.fixture
def stress_seed(pytestconfig: pytest.Config) -> int:
    """What random choices begin with: the option ``--stress-seed``, or else any number, which is printed."""
    given: int | None = pytestconfig.getoption("--stress-seed")
    seed = secrets.randbelow(1_000_000) if given is None else given
    print(f"--stress-seed={seed}")
    return seed
