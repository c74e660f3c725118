"""The wheel, built once."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.packaging.environments import ROOT, Environment, run


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory that is removed at the end. pytest would keep those of three runs, which are large."""
    with tempfile.TemporaryDirectory(prefix="reflex-packaging-") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def wheel(scratch: Path) -> Path:
    """The wheel, built from the source distribution, as for a release."""
    run(sys.executable, "-m", "build", "--outdir", scratch, ROOT)
    [wheel] = scratch.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def plain(scratch: Path, wheel: Path) -> Environment:
    """The wheel without any extra."""
    environment = Environment(scratch / "plain")
    environment.install(str(wheel))
    return environment


@pytest.fixture(scope="session")
def with_extra(scratch: Path, wheel: Path) -> Callable[[str], Environment]:
    """Return an environment with the wheel and one extra, created once."""

    @cache
    def make(extra: str) -> Environment:
        environment = Environment(scratch / extra)
        environment.install(f"{wheel}[{extra}]")
        return environment

    return make


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the tests without the package, so that they import the installed one."""
    for name in "tests", "examples", "benchmarks", "protos":
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path
