"""docs/architecture.md draws the tree as it is."""

import re

from tests.docs.documents import CHECKOUT


def test_every_module_is_in_the_layout_and_nothing_else() -> None:
    text = (CHECKOUT / "docs/architecture.md").read_text()
    drawn: list[str] = []
    folders: list[str] = []
    for indent, name in re.findall(r"^( *)(\w+(?:/|\.py))(?: .*)?$", text.split("## Files")[1], re.MULTILINE):
        del folders[len(indent) // 2 :]
        if name.endswith("/"):
            folders.append(name)
        else:
            drawn.append("".join(folders) + name)
    package = CHECKOUT / "reflex_aio"
    # Whoever adds a module gives it its line there.
    assert sorted(drawn) == sorted(str(path.relative_to(CHECKOUT)) for path in package.rglob("*.py"))
