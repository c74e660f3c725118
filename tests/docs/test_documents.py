"""What the README and the pages of docs/ say is so: their code runs, their links lead somewhere, their tests exist."""

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import CodeType
from typing import Any

import aiomysql
import pytest
import pytest_asyncio

from tests.docs.documents import CHECKOUT, DOCUMENTS, Block, anchors, blocks, links, named_tests
from tests.fix_mariadb import MysqlDatabase, make_mariadb
from tests.waiting import deadline

PROGRAMS = [
    pytest.param(document, block, id=f"{document.name}:{block.line}")
    for document in DOCUMENTS
    for block in blocks(document, "python")
    if block.is_program
]
every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)


@pytest_asyncio.fixture
async def mysql_pool(mysql_database: MysqlDatabase) -> AsyncIterator[aiomysql.Pool]:
    async with aiomysql.create_pool(**mysql_database.arguments) as pool:
        yield pool


@pytest.fixture
def place(request: pytest.FixtureRequest, document: Path) -> dict[str, Any]:
    """The names ``dsn`` and ``pool``, of the database that the document is about."""
    about_mysql = document.name == "mysql.md"
    database = request.getfixturevalue("mysql_database" if about_mysql else "database")
    return {"dsn": database.dsn, "pool": request.getfixturevalue("mysql_pool" if about_mysql else "pool")}


@every_document
@pytest.mark.asyncio
async def test_the_pieces_of_code_run_one_after_the_other(document: Path, place: dict[str, Any]) -> None:
    """They share their names, as in ``python -m asyncio``, and begin with ``dsn`` and ``pool``."""
    names: dict[str, Any] = {**place, "__name__": "document"}
    for block in blocks(document, "python"):
        if block.is_program or block.file is not None:
            continue
        printed = io.StringIO()
        async with asyncio.timeout(deadline(30)):
            with contextlib.redirect_stdout(printed):
                result = eval(_compiled(document, block), names)
                if inspect.isawaitable(result):
                    await result
        if block.output is not None:
            assert printed.getvalue() == block.output, f"what {document.name}:{block.line} prints"


@pytest.mark.parametrize(("document", "block"), PROGRAMS)
def test_programs_run_and_print_what_is_said(document: Path, block: Block, tmp_path: Path) -> None:
    if document.name == "mysql.md":
        # Not started: where there is none, that is said as by other tests.
        make_mariadb()
    program = tmp_path / f"{document.stem}.py"
    program.write_text(block.code)
    ran = subprocess.run(
        [sys.executable, "-W", "error", program],
        capture_output=True,
        text=True,
        timeout=deadline(60),
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == block.output


def test_the_readme_begins_with_a_program() -> None:
    first = blocks(CHECKOUT / "README.md", "python")[0]
    assert first.is_program
    assert first.output


@every_document
def test_files_are_tried_by_a_test_of_their_page(document: Path) -> None:
    if any(block.file is not None for block in blocks(document, "python")):
        assert (Path(__file__).parent / f"test_{document.stem}_page.py").exists()


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{document.name} links to {link}"


@every_document
def test_the_tests_that_are_named_exist(document: Path) -> None:
    for path, function in named_tests(document):
        assert path.exists(), f"{document.name} names {path}"
        if function:
            defined = re.search(rf"^(async )?def {function}\(", path.read_text(), re.MULTILINE)
            assert defined, f"{document.name} names {path.name}::{function}"


def _compiled(document: Path, block: Block) -> CodeType:
    # The empty lines make tracebacks name the document's own.
    code = "\n" * (block.line - 1) + block.code
    compiled = compile(code, str(document), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    assert isinstance(compiled, CodeType)
    return compiled
