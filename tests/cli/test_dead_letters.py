"""dead-letters: list, show, replay, resolve."""

from pathlib import Path

import pytest
import pytest_asyncio

from reflex_aio import Event
from reflex_aio.sql import ErrorsTable
from tests.cli.commands import Outcome, reflex_aio
from tests.cli.conftest import Service

pytestmark = pytest.mark.asyncio

errors = ErrorsTable()

HANDLERS = """
from reflex_aio import Consumer

async def handle(event):
    with open("handled", "a") as file:
        file.write(f"{event.id} {event.foreign_id}\\n")
    if event.foreign_id == "2":
        raise ValueError("still\\nwrong")

consumer = Consumer("mail", handle)
nothing = 7
"""


@pytest_asyncio.fixture
async def failed(service: Service) -> Service:
    """Three events on which consumers have failed, with the second error resolved."""
    await service.insert(3)
    await errors.create(service.connection)
    for number, consumer in enumerate(("mail", "search", "mail"), 1):
        event = Event(str(number), 1, str(number), 0)
        await errors.record(
            service.connection, consumer=consumer, event=event, error=ValueError("no\nway " * 30)
        )
    await errors.resolve(service.connection, "2")
    return service


@pytest.fixture
def handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory that contains a module of handlers."""
    (tmp_path / "handlers_of_mine.py").write_text(HANDLERS)
    (tmp_path / "broken_handlers.py").write_text("import nothing_like_that")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


async def letters(service: Service, *arguments: str) -> Outcome:
    return await service.reflex_aio("dead-letters", *arguments)


async def statuses(service: Service) -> dict[str, int]:
    return {each.id: each.status for each in await errors.find(service.connection)}


# list, show


async def test_recorded_errors_are_listed_and_others_by_option(failed: Service) -> None:
    async def listed(*arguments: str) -> list[str]:
        return [
            each["id"] for each in (await letters(failed, "list", *arguments, "--json")).done().json["errors"]
        ]

    assert await listed() == ["1", "3"]
    assert await listed("--status", "all") == ["1", "2", "3"]
    assert await listed("--status", "resolved") == ["2"]
    assert await listed("--status", "2") == ["2"]
    assert await listed("--consumer", "search") == []
    assert await listed("--status", "all", "--after", "1", "--limit", "1") == ["2"]


async def test_errors_whose_consumer_and_event_are_swapped_are_pointed_out(
    failed: Service, handlers: Path
) -> None:
    swap = "UPDATE consumer_errors SET consumer = event_id, event_id = consumer WHERE id <> 2"
    await failed.connection.execute(swap)
    done = await letters(failed, "list", "--status", "all", "--consumer", "mail")
    assert "in the column of the event" in done.err
    assert done.err.split(": ")[-1].split(", ") == ["1", "3\n"]
    assert "in the column of the event" in (await letters(failed, "show", "1")).err
    assert (await letters(failed, "show", "2")).err == ""
    refused = await letters(failed, "replay", "1", "--handler", "handlers_of_mine:consumer")
    assert "consumer and event of error 1 are swapped" in refused.failed(1)


async def test_a_list_has_a_line_for_each_error_and_names_the_option_to_continue(failed: Service) -> None:
    table = (await letters(failed, "list", "-n", "2")).done()
    assert [line.split()[:4] for line in table.lines[-2:]] == [
        ["1", "mail", "1", "recorded"],
        ["3", "mail", "3", "recorded"],
    ]
    assert "ValueError: no way no way" in table.lines[-1]
    assert table.err == "there may be more: continue with --after 3\n"


async def test_an_error_is_shown_in_full(failed: Service) -> None:
    shown = (await letters(failed, "show", "3")).done()
    assert shown.lines[:4] == ["id        3", "consumer  mail", "event     3", "status    recorded"]
    assert shown.out.count("way") == 30
    document = (await letters(failed, "show", "2", "--json")).done().json
    assert (document["id"], document["consumer"], document["status"]) == ("2", "search", 2)


# resolve


async def test_errors_are_resolved_once(failed: Service) -> None:
    assert (await letters(failed, "resolve", "1", "2")).done().lines == [
        "1: resolved",
        "2: already resolved",
    ]
    assert await statuses(failed) == {"1": 2, "2": 2, "3": 1}
    outcome = await letters(failed, "resolve", "3", "--json")
    assert outcome.done().json == {"errors": [{"id": "3", "changed": True}]}


async def test_none_is_resolved_if_one_does_not_exist(failed: Service) -> None:
    assert (await letters(failed, "resolve", "1", "9")).failed(3) == "consumer_errors: there is no error 9"
    assert (await letters(failed, "show", "9")).failed(3) == "consumer_errors: there is no error 9"
    assert await statuses(failed) == {"1": 1, "2": 2, "3": 1}


# replay


@pytest.mark.parametrize("handler", ["handlers_of_mine:handle", "handlers_of_mine:consumer"])
async def test_an_error_is_resolved_if_the_handler_succeeds(
    failed: Service, handlers: Path, handler: str
) -> None:
    replayed = await letters(failed, "replay", "1", "3", "--handler", handler)
    assert replayed.done().lines == ["1: resolved", "3: resolved"]
    assert (handlers / "handled").read_text() == "1 1\n3 3\n"
    assert await statuses(failed) == {"1": 2, "2": 2, "3": 2}
    assert await failed.cursors() == {}


async def test_a_failure_of_the_handler_is_shown_and_the_next_event_is_tried(
    failed: Service, handlers: Path
) -> None:
    replayed = await letters(failed, "replay", "2", "3", "--handler", "handlers_of_mine:handle")
    assert replayed.status == 1
    assert replayed.lines == ["2: ValueError: still wrong", "3: resolved"]
    assert replayed.err == "reflex-aio: the handler failed on 1 of 2\n"
    assert await statuses(failed) == {"1": 1, "2": 1, "3": 2}
    assert (await errors.get(failed.connection, "2")).message == "ValueError: still\nwrong"


async def test_a_deleted_event_is_not_found(failed: Service, handlers: Path) -> None:
    await failed.connection.execute("DELETE FROM user_events WHERE id = 1")
    replayed = await letters(failed, "replay", "1", "--handler", "handlers_of_mine:handle")
    assert replayed.failed(3).endswith("there is no event 1: was it deleted, or is this another source?")
    assert not (handlers / "handled").exists()
    assert await statuses(failed) == {"1": 1, "2": 2, "3": 1}


@pytest.mark.parametrize(
    ("handler", "status", "reason"),
    [
        ("handle", 2, "--handler 'handle' is not accepted: accepted is module:object"),
        ("no_such_module:handle", 2, "--handler 'no_such_module:handle': there is no module no_such_module"),
        ("handlers_of_mine:x", 2, "--handler 'handlers_of_mine:x': handlers_of_mine has no attribute x"),
        ("handlers_of_mine:nothing", 2, "--handler 'handlers_of_mine:nothing' is neither a Consumer nor"),
        ("broken_handlers:handle", 1, "--handler 'broken_handlers:handle' can't be imported: No module named"),
    ],
)  # fmt: skip
async def test_a_handler_that_cannot_be_loaded_is_an_error(
    failed: Service, handlers: Path, handler: str, status: int, reason: str
) -> None:
    assert (await letters(failed, "replay", "1", "--handler", handler)).failed(status).startswith(reason)
    assert await statuses(failed) == {"1": 1, "2": 2, "3": 1}


# Errors.


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["list", "--status", "x"], "--status 'x' is not accepted: accepted is recorded, resolved, all or a number"),
        (["list", "--after", "x"], "error id 'x' is not accepted"),
        (["show", "x"], "'x' is not an error id: accepted is a number"),
        (["resolve", "1", "x"], "'x' is not an error id"),
    ],
)  # fmt: skip
async def test_wrong_arguments_are_refused(failed: Service, arguments: list[str], reason: str) -> None:
    assert (await letters(failed, *arguments)).failed(2).startswith(reason)
    assert await statuses(failed) == {"1": 1, "2": 2, "3": 1}


async def test_missing_and_foreign_tables_are_errors(service: Service) -> None:
    await service.connection.execute("CREATE TABLE others (id int)")
    for command in (["list"], ["show", "1"], ["resolve", "1"]):
        assert (
            (await letters(service, *command))
            .failed(3)
            .startswith("consumer_errors: the table does not exist")
        )
        assert (await letters(service, *command, "--errors", "others")).failed(1).startswith("others: ")


async def test_a_database_that_is_down_is_an_error_without_the_password(unused_tcp_port: int) -> None:
    dsn = f"postgresql://me:s3cret@127.0.0.1:{unused_tcp_port}/app"
    assert "s3cret" not in (await reflex_aio("dead-letters", "list", "--dsn", dsn)).failed(5)
