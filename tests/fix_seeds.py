"""One seed for all random choices of the tests, printed, and the command that repeats a failed test with it."""

import re
import secrets
import shlex
import sys
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed", type=int, default=None, metavar="N", help="repeat the random choices of another run"
    )


# Before Hypothesis reads its option. xdist passes the options to its processes.
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.seed is None:
        config.option.seed = secrets.randbelow(1_000_000)
    if getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = config.option.seed


def pytest_report_header(config: pytest.Config) -> str:
    return f"random choices: --seed={config.option.seed}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    failed = {
        report.nodeid: None
        for outcome in ("failed", "error")
        for report in terminalreporter.getreports(outcome)
        if "::" in report.nodeid
    }
    if failed:
        terminalreporter.section("to repeat a failed test alone")
    for nodeid in failed:
        terminalreporter.write_line(repeat_command(nodeid, config))


def repeat_command(nodeid: str, config: pytest.Config) -> str:
    """Return the shell command that runs one test with the random choices of this run."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    options = [f"--seed={config.option.seed}"]
    if config.option.event_loop != "asyncio":
        options.append(f"--event-loop={config.option.event_loop}")
    # xdist appends the name of the group.
    return shlex.join([str(python), "-m", "pytest", *options, re.sub(r"@\w+$", "", nodeid)])


@pytest.fixture
def seed(pytestconfig: pytest.Config) -> int:
    """The seed of the test's random choices: the option ``--seed``, or else any number, printed by pytest."""
    seed: int = pytestconfig.option.seed
    return seed
