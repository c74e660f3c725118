"""docs/architecture.md names files that exist, and every folder of the package."""

import re

from tests.docs.documents import CHECKOUT

TEXT = (CHECKOUT / "docs/architecture.md").read_text()
PACKAGE = CHECKOUT / "reflex_aio"


def test_each_file_that_is_named_exists() -> None:
    named = re.findall(r"`((?:\w+/)*\w+\.py)`", TEXT)
    assert named
    assert [
        name for name in named if not (PACKAGE / name).is_file() and not (CHECKOUT / name).is_file()
    ] == []


def test_each_package_is_named() -> None:
    packages = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert packages
    assert [name for name in packages if not re.search(rf"\b{name}\b", TEXT)] == []


def test_it_fits_on_two_screens() -> None:
    assert len(TEXT.splitlines()) <= 150
