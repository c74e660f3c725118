"""The page on Alembic: its files migrate a database up and down, and leave nothing for autogenerate to find."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from reflex_aio.ext.alembic import add_tables
from reflex_aio.sql import EventsTable
from tests.docs.documents import CHECKOUT, blocks
from tests.fix_backends import Backend, PostgresBackend
from tests.fix_databases import Connect, Database
from tests.waiting import deadline

pytestmark = pytest.mark.asyncio

FILES = {block.file: block.code for block in blocks(CHECKOUT / "docs" / "alembic.md", "python") if block.file}
TABLES = ("order_events", "cursors", "consumer_errors", "consumer_errors_events", "leases", "attempts")
SCRIPT = '''"""${message}"""
import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}

def upgrade() -> None:
    ${upgrades if upgrades else "pass"}

def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
'''


class Alembic:
    """A directory with the page's files, and the command in it."""

    def __init__(self, place: Path, url: str, dialect: str, names: Sequence[str]) -> None:
        self._place = place
        (place / "migrations" / "versions").mkdir(parents=True)
        (place / "migrations" / "script.py.mako").write_text(SCRIPT)
        (place / "alembic.ini").write_text(
            f"[alembic]\nscript_location = migrations\nsqlalchemy.url = {url.replace('%', '%%')}\n"
        )
        for name in names:
            code = FILES[name]
            if dialect == "mysql":
                code = code.replace("leases, attempts)", 'leases, attempts, dialect="mysql")')
            (place / name).write_text(code)

    def run(self, *arguments: str) -> str:
        """Run the command, which must succeed, and return its output."""
        ran = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=self._place,
            capture_output=True,
            text=True,
            timeout=deadline(120),
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(self._place)])},
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout + ran.stderr

    def migrations(self) -> list[Path]:
        """Return the migrations that there are."""
        return list((self._place / "migrations" / "versions").glob("*.py"))


def url_of(backend: Backend) -> str:
    scheme, _, rest = backend.dsn.partition("://")
    return f"{'mysql+aiomysql' if scheme == 'mysql' else 'postgresql+asyncpg'}://{rest}"


async def tables_of(backend: Backend, connection: Any) -> set[str]:
    schema = "DATABASE()" if backend.driver.dialect == "mysql" else "current_schema()"
    rows = await backend.fetch(
        connection, f"SELECT table_name FROM information_schema.tables WHERE table_schema = {schema}"
    )
    return {row[0] for row in rows} - {"alembic_version"}


@pytest.mark.one_library
async def test_a_generated_migration_makes_the_tables_that_create_makes(
    backend: Backend, tmp_path: Path
) -> None:
    dialect = backend.driver.dialect
    alembic = Alembic(tmp_path, url_of(backend), dialect, ["models.py", "migrations/env.py"])
    alembic.run("revision", "--autogenerate", "-m", "events")
    [migration] = alembic.migrations()
    assert "drop_table" in migration.read_text()
    alembic.run("upgrade", "head")
    names: dict[str, Any] = {}
    exec(FILES["models.py"], names)
    connection = await backend.connect()
    assert await tables_of(backend, connection) == set(TABLES)
    for name in ("order_events", "cursors", "errors", "leases", "attempts"):
        await names[name].validate(connection)
    # Whatever validate() compares, the tables are those of create(), column by column.
    by_alembic = [await described(backend, connection, table) for table in TABLES]
    alembic.run("check")
    alembic.run("downgrade", "base")
    assert await tables_of(backend, connection) == set()
    for name in ("order_events", "cursors", "errors", "leases", "attempts"):
        await names[name].create(connection)
    assert [await described(backend, connection, table) for table in TABLES] == by_alembic


@pytest.mark.one_library
async def test_tables_that_exist_are_neither_dropped_nor_changed(backend: Backend, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(FILES["models.py"], names)
    connection = await backend.connect()
    for name in ("order_events", "cursors", "errors", "leases", "attempts"):
        await names[name].create(connection)
    alembic = Alembic(tmp_path, url_of(backend), backend.driver.dialect, ["models.py", "migrations/env.py"])
    assert "No new upgrade operations" in alembic.run("check")


async def test_a_migration_by_hand_goes_up_and_down(
    database: Database, connect: Connect, tmp_path: Path
) -> None:
    backend = PostgresBackend(database.dsn)
    alembic = Alembic(tmp_path, url_of(backend), "postgres", list(FILES))
    connection = await connect()
    alembic.run("upgrade", "head")
    await EventsTable("audit_events", wakeups="trigger").validate(connection)
    assert await tables_of(backend, connection) == {"audit_events"}
    alembic.run("downgrade", "base")
    assert await tables_of(backend, connection) == set()


async def described(backend: Backend, connection: Any, table: str) -> list[tuple[Any, ...]]:
    rows = await backend.fetch(
        connection,
        "SELECT column_name, data_type, is_nullable, column_default, character_maximum_length,"
        f" collation_name, datetime_precision FROM information_schema.columns AS c WHERE table_name = '{table}'"
        " AND table_schema NOT IN ('mysql') ORDER BY c.ordinal_position",
    )
    return [tuple(row) for row in rows]


async def test_what_is_no_table_object_is_refused() -> None:
    with pytest.raises(TypeError, match="table 'events' is a str: accepted is a table object"):
        add_tables(sqlalchemy.MetaData(), "events")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"accepted is a sqlalchemy.MetaData"):
        add_tables(EventsTable("events"))  # type: ignore[arg-type]
