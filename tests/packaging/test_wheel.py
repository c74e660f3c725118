"""The built wheel works without extras, and with each of them alone."""

import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.environments import ROOT, Environment, pyproject, run

# In one process, so that each environment is created once.
pytestmark = [pytest.mark.xdist_group("wheel"), pytest.mark.extended]

EXTRAS: dict[str, list[str]] = pyproject()["project"]["optional-dependencies"]

# Imports every module of the package, and prints the error of each import, or null, by name.
IMPORT_ALL = """
import importlib, json, pkgutil
import reflex_aio
outcome = {}
for module in pkgutil.walk_packages(reflex_aio.__path__, "reflex_aio.", onerror=lambda name: None):
    try:
        importlib.import_module(module.name)
        outcome[module.name] = None
    except ImportError as exc:
        outcome[module.name] = str(exc)
print(json.dumps(outcome))
"""

# Imports the given modules, and prints the names of all modules that are imported then.
IMPORT_THESE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sys.modules)
"""

# Imports each of the given modules of the package in a process that has imported none of them, but all other given
# modules, which take most of the time.
IMPORT_EACH_ALONE = """
import gc, importlib, os, sys
ours = [name for name in sys.argv[1:] if name.partition(".")[0] == "reflex_aio"]
for name in sys.argv[1:]:
    if name not in ours:
        importlib.import_module(name)
assert not set(sys.modules) & set(ours)
gc.freeze()
for name in ours:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""


def test_the_wheel_holds_the_package_its_types_and_its_protos(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "reflex_aio").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    protos = {"reflex_aio/protos/reflex.proto", "reflex_aio/protos/reflexaio/v1/pages.proto"}
    assert held == package | protos
    assert "reflex_aio/py.typed" in held


def test_importing_the_core_imports_no_driver(plain: Environment) -> None:
    loaded = plain.run("-c", "import sys, reflex_aio; print(*sys.modules)").split()
    assert "reflex_aio.event" in loaded
    assert not {"asyncpg", "aiomysql", "asyncmy", "grpc", "google.protobuf"} & set(loaded)


def test_each_module_can_be_imported_alone(plain: Environment) -> None:
    outcome: dict[str, str | None] = json.loads(plain.run("-c", IMPORT_ALL))
    there = [name for name, failure in outcome.items() if failure is None]
    assert len(there) > 100
    imported = plain.run("-c", IMPORT_THESE, *there).split()
    plain.run("-W", "error", "-c", IMPORT_EACH_ALONE, *imported)


@pytest.mark.parametrize("extra", [None, *sorted(EXTRAS)])
def test_with_one_extra_all_modules_but_those_of_other_extras_can_be_imported(
    extra: str | None, plain: Environment, with_extra: Callable[[str], Environment]
) -> None:
    environment = plain if extra is None else with_extra(extra)
    # pytest itself loads its plugin, so pytest is always installed then.
    others = ["No module named 'pytest'", *(f"reflex-aio[{other}]" for other in EXTRAS if other != extra)]
    for name, failure in json.loads(environment.run("-c", IMPORT_ALL)).items():
        message = f"the error of {name}, {failure!r}, names none of the extras {others}"
        assert failure is None or any(other in failure for other in others), message


def test_pytest_loads_the_plugin_automatically(scratch: Path, wheel: Path) -> None:
    environment = Environment(scratch / "pytest")
    environment.install(str(wheel), "pytest")
    # Without a plugin for asynchronous tests, and without the extra that one of the fixtures needs.
    (environment.directory / "test_it.py").write_text(
        "def test_events(reflex_events, reflex_cursors): pass\n"
        "def test_plugins(pytestconfig):\n"
        "    assert not pytestconfig.pluginmanager.hasplugin('asyncio')\n"
    )
    found = environment.run("-m", "pytest", "--fixtures")
    assert "reflex_database -- " in found
    assert "2 passed" in environment.run("-W", "error", "-m", "pytest", "-p", "reflex_aio.pytest_plugin")


def test_the_command_needs_its_extra_and_nothing_else(
    plain: Environment, with_extra: Callable[[str], Environment]
) -> None:
    without = subprocess.run([plain.directory / "bin" / "reflex-aio"], capture_output=True, text=True)
    assert (without.returncode, without.stdout) == (2, "")
    assert without.stderr == "reflex-aio: the command needs typer and rich: pip install 'reflex-aio[cli]'\n"
    environment = with_extra("cli")
    command = environment.directory / "bin" / "reflex-aio"
    assert run(command, "--version").strip() == pyproject()["project"]["version"]
    assert run(command, "ddl", "cursors").startswith('CREATE TABLE "cursors"')
    assert environment.run("-W", "error", "-m", "reflex_aio", "--help").count("dead-letters") == 1
