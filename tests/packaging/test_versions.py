"""The wheel works with the oldest supported dependencies, and on each supported Python."""

import re
import sys
from pathlib import Path

import pytest

from tests.packaging.environments import ROOT, Environment, interpreter_of, pyproject
from tests.waiting import deadline

PROJECT = pyproject()["project"]
TEST_TOOLS: list[str] = pyproject()["dependency-groups"]["test"]
# The package's own requirements and those of each of its extras.
REQUIREMENTS: list[str] = sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])

# The same, at their lower bounds.
OLDEST = [requirement.replace(">=", "==") for requirement in REQUIREMENTS]

# The whole suite runs on one Python. These tests run on each, as they detect an incompatible version within seconds.
SMOKE = [
    "tests/core",
    "tests/pb",
    "tests/rpc/test_remote_stream.py",
    "tests/rpc/test_go.py",
    "tests/cli/test_command.py",
    "tests/sql/test_after_transaction.py",
    "tests/sql/test_atomic_backends.py",
    "tests/sql/test_batches.py",
    "tests/sql/test_stream.py",
    "tests/sql/mysql/test_drivers.py",
    "tests/sql/mysql/test_pools.py",
]
OTHER_PYTHONS = [version for version in ("3.11", "3.12", "3.13") if version != f"3.{sys.version_info.minor}"]


def test_lower_bounds_exclude_the_vulnerabilities_that_are_listed() -> None:
    listed = re.findall(
        r"^\| (\w+)[^|]*\| ([\d.]+) \| .*(?:CVE|GHSA)-", (ROOT / "SECURITY.md").read_text(), re.MULTILINE
    )
    assert len(listed) >= 4
    bounds = dict(requirement.lower().split(">=") for requirement in REQUIREMENTS)
    assert {name.lower(): bound for name, bound in listed}.items() <= bounds.items()


@pytest.mark.extended
@pytest.mark.timeout(deadline(300))
def test_with_the_oldest_dependencies(scratch: Path, wheel: Path, checkout: Path) -> None:
    environment = Environment(scratch / "oldest")
    environment.install(str(wheel), *OLDEST, *TEST_TOOLS)
    pass_the_smoke_tests(environment, checkout)


@pytest.mark.extended
@pytest.mark.timeout(deadline(300))
@pytest.mark.parametrize("version", OTHER_PYTHONS)
def test_on_each_python(version: str, scratch: Path, wheel: Path, checkout: Path) -> None:
    interpreter = interpreter_of(version)
    if interpreter is None:
        pytest.skip(f"no Python {version}, neither on PATH nor among pyenv's")
    environment = Environment(scratch / version, interpreter)
    environment.install(str(wheel), *REQUIREMENTS, *TEST_TOOLS)
    # On uvloop, as the whole suite runs on the event loop of asyncio.
    pass_the_smoke_tests(environment, checkout, "--event-loop=uvloop")


def pass_the_smoke_tests(environment: Environment, checkout: Path, *options: str) -> None:
    tested = environment.run("-c", "import reflex_aio; print(reflex_aio.__file__)", cwd=checkout)
    assert Path(tested).is_relative_to(environment.directory)
    # Without tests of other servers, and of trio.
    environment.run("-m", "pytest", "-q", "-k", "not pg15 and not trio", *options, *SMOKE, cwd=checkout)
