"""The wheel works with the oldest dependencies that it admits, and on each Python that it admits."""

import sys
from pathlib import Path

import pytest

from tests.packaging.environments import Environment, interpreter_of, project

# What shows within seconds whether a version fits: a part of each floor.
SMOKE = ["tests/pb", "tests/test_infrastructure.py"]


def requirements() -> list[str]:
    """All that the package asks for, with its extras."""
    told = project()["project"]
    return [
        *told["dependencies"],
        *(name for extra in told["optional-dependencies"].values() for name in extra),
    ]


def passes_smoke_tests(environment: Environment, checkout: Path) -> None:
    where = environment.run("-c", "import reflex_aio; print(reflex_aio.__file__)", cwd=checkout)
    assert Path(where).is_relative_to(environment.directory)
    environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *SMOKE, cwd=checkout)


@pytest.mark.timeout(300)
def test_with_the_oldest_dependencies(scratch: Path, wheel: Path, checkout: Path) -> None:
    environment = Environment(scratch / "oldest")
    oldest = [name.replace(">=", "==") for name in requirements()]
    environment.install(str(wheel), *oldest, *project()["dependency-groups"]["test"])
    installed = environment.run(
        "-c", "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    )
    passes_smoke_tests(environment, checkout)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_on_each_python(version: str, scratch: Path, wheel: Path, checkout: Path) -> None:
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        interpreter: str | None = sys.executable
    else:
        interpreter = interpreter_of(version)
    if interpreter is None:
        pytest.skip(f"there is no Python {version} on PATH or among pyenv's")
    environment = Environment(scratch / version, interpreter)
    environment.install(str(wheel), *requirements(), *project()["dependency-groups"]["test"])
    passes_smoke_tests(environment, checkout)
