"""docs/parity.md leaves out no name of luno/reflex, and what it names here exists."""

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.docs.documents import CHECKOUT
from tests.docs.original_names import NAMES

_ROW = re.compile(r"^\| (`.+?) \| (.+?) \| ?(.*?) ?\|$", re.MULTILINE)
_OURS = re.compile(r"`(reflex_aio[\w.]*)(?:\((\w+)=\))?`")


@dataclass(frozen=True)
class Row:
    there: list[str]
    here: str
    told: str


def _rows() -> Iterator[tuple[str, Row]]:
    for section in re.split(r"^## ", (CHECKOUT / "docs/parity.md").read_text(), flags=re.MULTILINE)[1:]:
        package = section.split("\n", 1)[0]
        for there, here, told in _ROW.findall(section):
            yield package, Row(re.findall(r"`([\w.]+)`", there), here, told)


ROWS = list(_rows())
every_row = pytest.mark.parametrize(
    "row", [pytest.param(row, id=f"{package}:{row.there[0]}") for package, row in ROWS]
)


@pytest.mark.parametrize("package", NAMES)
def test_every_name_of_the_original_is_there_once(package: str) -> None:
    named = [name for where, row in ROWS if where == package for name in row.there]
    assert sorted(named) == sorted(NAMES[package].split())


@every_row
def test_what_is_named_here_exists(row: Row) -> None:
    for path, argument in _OURS.findall(f"{row.here} {row.told}"):
        found = _find(path)
        if argument:
            assert argument in inspect.signature(found).parameters, f"{path} has no argument {argument}"


@every_row
def test_a_name_is_here_or_there_is_a_reason(row: Row) -> None:
    if row.here == "none":
        assert row.told, f"{row.there}: no reason"
    else:
        # Nothing but names that exist.
        assert re.sub(_OURS, "", row.here).strip(", ") == ""
        assert _OURS.search(row.here)


def _find(path: str) -> Any:
    """Return what a dotted path leads to: a module's name, and of a class a method or a field."""
    module = path
    attributes: list[str] = []
    while True:
        try:
            found: Any = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, attribute = module.rpartition(".")
            attributes.insert(0, attribute)
    if attributes:
        assert attributes[0] in found.__all__, f"{path}: {module} doesn't export it"
    for attribute in attributes:
        # The fields of some classes are there in objects alone.
        if attribute not in getattr(found, "__annotations__", {}):
            found = getattr(found, attribute)
    return found
