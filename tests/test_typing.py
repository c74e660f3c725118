"""What the package exports is wholly typed, as type checkers other than mypy see it too."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# pyright is run once, not by each of the processes that the tests are spread over.
pytestmark = [pytest.mark.xdist_group("pyright"), pytest.mark.extended]

ROOT = Path(__file__).parent.parent
PUBLIC = [
    "reflex_aio",
    "reflex_aio.filters",
    "reflex_aio.patterns",
    "reflex_aio.sql",
    "reflex_aio.rpc",
    "reflex_aio.testing",
    "reflex_aio.ext.embedded",
]


@pytest.fixture(scope="module")
def symbols() -> list[dict[str, Any]]:
    """What ``pyright --verifytypes`` says of each symbol in the package."""
    # It takes the environment from PATH.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--verifytypes",
        "reflex_aio",
        "--ignoreexternal",
        "--outputjson",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    return found


@pytest.mark.parametrize("module", PUBLIC)
def test_every_exported_name_has_a_known_type(module: str, symbols: list[dict[str, Any]]) -> None:
    exported = set()
    for name in importlib.import_module(module).__all__:
        found = getattr(sys.modules[module], name)
        # Aliases of types are no symbols of their own.
        if getattr(found, "__module__", "").startswith("reflex_aio"):
            exported.add(f"{found.__module__}.{found.__qualname__}")
    assert exported <= {symbol["name"] for symbol in symbols}
    unknown = [
        symbol["name"]
        for symbol in symbols
        if not symbol["isTypeKnown"] and any(f"{symbol['name']}.".startswith(f"{name}.") for name in exported)
    ]
    assert not unknown, "\n".join(unknown)
