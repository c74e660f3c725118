"""The commands and queries of docs/operations.md, run in their order on a service where these things have happened."""

import re
import shlex
from pathlib import Path
from typing import Any

import aiomysql
import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import Backoff, Consumer, Event, Runner, Spec
from reflex_aio.cli.command import Exit
from reflex_aio.sql import AttemptsTable, CursorsTable, ErrorsTable, EventsTable, LeasesTable
from tests.cli.commands import reflex_aio
from tests.docs.documents import CHECKOUT, Block, blocks
from tests.fix_databases import Connect, Database
from tests.fix_mariadb import MysqlDatabase
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

DOCUMENT = CHECKOUT / "docs/operations.md"
SERVICE = """
from reflex_aio import Consumer

async def index(event): ...

consumer = Consumer("search", index)
"""


async def make_service(connection: Any) -> None:
    """Make a service's tables: a consumer stuck at event 7, one with dead letters, one whose cursor is ahead."""
    events, cursors, errors = EventsTable("user_events"), CursorsTable("cursors"), ErrorsTable()
    for table in (events, cursors, errors, LeasesTable("leases"), AttemptsTable()):
        await table.create(connection)
    await events.insert_many(connection, [(number, 1) for number in range(1, 9)])
    for consumer, cursor in (("mail", "6"), ("search", "8"), ("billing", "99")):
        await cursors.set(connection, consumer, cursor)
    for event_id in ("3", "4"):
        await errors.record(
            connection, consumer="search", event=Event(event_id, 1, event_id, 0), error=ValueError("no index")
        )


@pytest_asyncio.fixture
async def connection(connect: Connect) -> asyncpg.Connection:
    connection = await connect()
    await make_service(connection)
    await connection.execute(
        "INSERT INTO consumer_attempts VALUES ('mail', '7', 3, now() + interval '1 hour')"
    )
    return connection


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the operator is, with the module of the service."""
    (tmp_path / "service.py").write_text(SERVICE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def run_commands(block: Block, dsn: str) -> None:
    for line in block.code.splitlines():
        command, *arguments = shlex.split(line.replace("$NEW_DSN", dsn), comments=True)
        assert command == "reflex-aio", f"operations.md:{block.line} runs {command}"
        outcome = await reflex_aio(*arguments, REFLEX_DSN=dsn, REFLEX_EVENTS="user_events")
        assert outcome.status == 0, f"operations.md:{block.line}: {line} ends with {outcome}"


def in_order() -> list[Block]:
    found = [block for language in ("sh", "sql", "mysql") for block in blocks(DOCUMENT, language)]
    return sorted(found, key=lambda block: block.line)


async def test_commands_and_queries_of_the_page_work_in_their_order(
    database: Database, connection: asyncpg.Connection, mysql_database: MysqlDatabase, directory: Path
) -> None:
    ran = 0
    for block in in_order():
        if block.language == "mysql":
            async with aiomysql.connect(**mysql_database.arguments) as mysql, mysql.cursor() as cursor:
                await cursor.execute(block.code)
        elif block.language == "sql":
            await connection.execute(block.code)
        else:
            await run_commands(block, database.dsn)
        ran += 1
    assert ran > 20
    # What the runbooks were for.
    assert await CursorsTable("cursors").all(connection) == {"mail": "7", "search": "0"}
    assert await CursorsTable("mail_cursors").all(connection) == {"mail": "7"}
    assert await ErrorsTable().find(connection, status=1) == []


async def test_commands_of_the_page_work_on_mariadb_too(
    mysql_database: MysqlDatabase, directory: Path
) -> None:
    async with aiomysql.connect(**mysql_database.arguments) as connection:
        await make_service(connection)
        for block in blocks(DOCUMENT, "sh"):
            await run_commands(block, mysql_database.dsn)
        told = await CursorsTable("cursors").all(connection)
        assert told == {"mail": "7", "search": "0", "billing": "8"}
        assert await CursorsTable("mail_cursors").all(connection) == {"mail": "7"}


@pytest.mark.parametrize("flush_every", [None, 0.05])
async def test_consumer_that_fails_goes_on_after_a_skip_while_it_runs_under_its_lease(
    database: Database, connection: asyncpg.Connection, flush_every: float | None
) -> None:
    handled: list[str] = []

    async def handle(event: Event) -> None:
        if event.id == "7":
            raise ValueError("poison")
        handled.append(event.id)

    async with asyncpg.create_pool(database.dsn, min_size=1) as pool:
        store = CursorsTable("cursors").store(pool, flush_every=flush_every)
        spec = Spec(EventsTable("user_events").source(pool), store, Consumer("mail", handle))
        leases = LeasesTable("leases").store(pool)
        async with Runner([spec], leases=leases, backoff=Backoff(initial=0.05, maximum=0.1)) as runner:
            await eventually(lambda: runner.statuses()["mail"].restarts > 2, "some failures")
            environment = {"REFLEX_DSN": database.dsn, "REFLEX_EVENTS": "user_events"}
            assert (await reflex_aio("skip", "mail", "--yes", **environment)).status == Exit.REFUSED
            (await reflex_aio("skip", "mail", "--yes", "--force", **environment)).done()
            await eventually(lambda: handled == ["8"], "the event after it")
    assert (await CursorsTable("cursors").all(connection))["mail"] == "8"


async def test_each_alert_is_told_of() -> None:
    alerts = re.findall(r"- alert: (\w+)", (CHECKOUT / "docs/alerts.yml").read_text())
    told = re.findall(r"^\| `(Reflex\w+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert told == alerts
