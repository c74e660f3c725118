"""docs/api.md names what the packages export, all of it and nothing else."""

import re
from importlib import import_module

import pytest

from tests.docs.documents import CHECKOUT

SECTIONS = re.split(r"^## ", (CHECKOUT / "docs/api.md").read_text(), flags=re.MULTILINE)[1:]
MODULES = {section.split("\n", 1)[0]: section for section in SECTIONS}


def test_the_packages_that_users_import_are_there() -> None:
    assert MODULES.keys() >= {
        "reflex_aio",
        *(f"reflex_aio.{name}" for name in ("errors", "filters", "health", "hooks", "memory", "patterns")),
        *(f"reflex_aio.{name}" for name in ("rpc", "sql", "testing")),
    }


@pytest.mark.parametrize("module", MODULES)
def test_each_exported_name_has_its_line_in_order(module: str) -> None:
    named = re.findall(r"^\| `(\w+)` \| .+ \|$", MODULES[module], re.MULTILINE)
    assert named == list(import_module(module).__all__)


@pytest.mark.parametrize("module", MODULES)
def test_exported_names_are_sorted(module: str) -> None:
    names = list(import_module(module).__all__)
    assert names == sorted(names)


def test_public_names_are_few() -> None:
    # The optional parts, of which a user reads one or two, have a few each.
    optional = {module for module in MODULES if module.startswith("reflex_aio.ext.")} | {
        "reflex_aio.metadata"
    }
    names = {name for module in MODULES.keys() - optional for name in import_module(module).__all__}
    assert len(names) <= 113
    assert all(len(import_module(module).__all__) <= 4 for module in optional)


@pytest.mark.parametrize("module", MODULES)
def test_methods_that_are_named_exist(module: str) -> None:
    for name, words in re.findall(
        r"^\| `(Event|CursorsTable|ErrorsTable|EventsTable)` \| (.+) \|$", MODULES[module], re.MULTILINE
    ):
        for method in re.findall(r"`(\w+)`", words):
            assert hasattr(getattr(import_module(module), name), method), f"{name}.{method}"
