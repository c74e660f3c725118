"""prune: deletion, output and confirmation."""

import asyncio
import sys
from subprocess import PIPE

import pytest

from tests.cli.commands import on_terminal
from tests.cli.conftest import Service, cursors, events
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


async def old(service: Service, count: int = 20, **consumers: str) -> None:
    """Insert events of yesterday, and set the cursors of consumers."""
    await service.insert(count)
    await service.connection.execute("UPDATE user_events SET timestamp = now() - interval '1 day'")
    for consumer, cursor in consumers.items():
        await cursors.set(service.connection, consumer, cursor)


async def oldest(service: Service) -> str:
    return (await events.extent(service.connection)).oldest


async def test_it_deletes_old_consumed_events_and_names_the_reason_for_the_rest(service: Service) -> None:
    await old(service, mail="15", search="10")
    pruned = await service.reflex_aio("prune", "--older-than", "12h")
    assert pruned.done().out == (
        "user_events: 9 events deleted; events are kept from 10 on, the position of the slowest consumer, search\n"
    )
    assert await oldest(service) == "10"
    again = await service.reflex_aio("prune", "--older-than", "12h", "--ignore", "sea*", "--json")
    assert again.done().json == {
        "table": "user_events",
        "events": 5,
        "first": "10",
        "position": "14",
        "end": "15",
        "limit": "consumer",
        "consumer": "mail",
        "dry_run": False,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--before", "7"],
            "6 events would be deleted; events are kept from 7 on, the event given by --before",
        ),
        (["--older-than", "2d"], "0 events would be deleted; events are kept from 1 on, which is too young"),
        (
            ["--before", "7", "--expect", "new"],
            "0 events would be deleted; all events are kept for new, which has consumed none, or whose cursor is not",
        ),
        (["--before", "7", "--ignore", "*"], "all events are kept, as no consumer has a cursor yet"),
        (
            ["--before", "99", "--force"],
            "19 events would be deleted; events are kept from 20 on, the newest event, which is always kept",
        ),
    ],
)
async def test_a_dry_run_prints_the_same_and_neither_prompts_nor_deletes(
    service: Service, arguments: list[str], message: str
) -> None:
    await old(service, mail="15")
    pruned = await service.reflex_aio("prune", *arguments, "--dry-run")
    assert message in pruned.done().out
    assert await oldest(service) == "1"


async def test_an_empty_table_is_no_error(service: Service) -> None:
    assert (await service.reflex_aio("prune", "--older-than", "1d")).done().out == "user_events is empty\n"


async def test_force_names_the_consumers_that_miss_events_and_prompts(service: Service) -> None:
    await old(service, mail="15", search="4", ignored="1")
    refused = await service.reflex_aio(
        "prune", "--before", "9", "--force", "--ignore", "ignored", given="n\n"
    )
    assert refused.status == 4
    assert (
        "Delete 8 events of user_events before 9, some not yet consumed by search (at 4)? [y/N]"
        in refused.err
    )
    assert await oldest(service) == "1"
    pruned = await service.reflex_aio("prune", "--before", "9", "--force", given="y\n")
    assert pruned.done().out.startswith("user_events: 8 events deleted;")
    assert await oldest(service) == "9"


async def test_force_needs_no_cursors_table(service: Service) -> None:
    await old(service)
    pruned = await service.reflex_aio("prune", "--before", "9", "--force", "--yes", "--cursors", "none")
    assert pruned.done().out.startswith("user_events: 8 events deleted;")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "use --older-than, --before, or both"),
        (["--older-than", "soon"], 2, "--older-than 'soon' is not accepted: accepted is 90s, 30m, 2h or 7d"),
        (["--before", "x"], 2, "'x' is not a cursor"),
        (["--before", "9", "--cursors", "none"], 3, "none: the table does not exist"),
        (["--before", "9", "--events", "none"], 3, "none: the table does not exist"),
    ],
)
async def test_nothing_is_deleted_after_an_error(
    service: Service, arguments: list[str], status: int, message: str
) -> None:
    await old(service, mail="15")
    assert (await service.reflex_aio("prune", *arguments)).failed(status).startswith(message)
    assert await oldest(service) == "1"


async def test_a_terminal_shows_the_progress(service: Service) -> None:
    await old(service, 300, mail="290")
    written = await on_terminal("prune", *service.options, "--before", "280", "--pause", "0")
    assert "deleting events of user_events" in written
    assert "279 events deleted" in written


async def test_a_killed_run_leaves_whole_batches_and_the_next_run_continues(service: Service) -> None:
    await old(service, 2000, mail="2000")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reflex_aio", "prune", *service.options, "--before", "1901", "--batch-size", "10",
        "--pause", "20", stdout=PIPE, stderr=PIPE,
    )  # fmt: skip

    async def begun() -> bool:
        return int(await oldest(service)) > 100

    await eventually(begun, "events deleted", within=20.0)
    process.kill()
    await process.communicate()
    left = int(await oldest(service))
    assert 100 < left < 1901
    assert (left - 1) % 10 == 0
    assert await service.connection.fetchval("SELECT count(*) FROM user_events") == 2001 - left
    pruned = await service.reflex_aio("prune", "--before", "1901", "--pause", "0", "--json")
    assert pruned.done().json["events"] == 1901 - left
