"""The README and the pages of docs/, as what they are made of."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
DOCUMENTS = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w/]+\.py)\n")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_TEST = re.compile(r"`(tests/[\w/.]+?)(?:::(\w+))?`")


@dataclass(frozen=True)
class Block:
    """A piece of code between fences. ``line`` is that of its first line in the document."""

    language: str
    code: str
    line: int
    output: str | None
    """What the block of language ``text`` that follows says it prints."""

    @property
    def file(self) -> str | None:
        """The name of the file that it is, which its first line names in a comment; ``None`` if it is none."""
        named = _FILE.match(self.code)
        return None if named is None else named[1]

    @property
    def is_program(self) -> bool:
        """Whether it is a program of its own, rather than a piece that goes on from the one before."""
        return self.file is None and "asyncio.run(" in self.code


def blocks(document: Path, language: str) -> list[Block]:
    """Return the blocks of a language in the order of the document."""
    found: list[Block] = []
    text = document.read_text()
    fences = list(_FENCE.finditer(text))
    for fence, after in zip_longest(fences, fences[1:]):
        output = None
        # Prose in between: then the text isn't the block's output.
        if after is not None and after[1] == "text" and not text[fence.end() : after.start()].strip():
            output = after[2]
        if fence[1] == language:
            found.append(Block(language, fence[2], text.count("\n", 0, fence.start(2)) + 1, output))
    return found


def links(document: Path) -> list[str]:
    """Return where the links of a document lead."""
    return _LINK.findall(_prose(document))


def anchors(document: Path) -> set[str]:
    """Return the names that links can give after a ``#``, as GitHub makes them of headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(_prose(document))
    }


def named_tests(document: Path) -> Iterator[tuple[Path, str]]:
    """Return the tests that a document names, as files and functions; ``""`` is a whole file or directory."""
    for path, function in _TEST.findall(document.read_text()):
        yield CHECKOUT / path, function


def _prose(document: Path) -> str:
    return _FENCE.sub("", document.read_text())
