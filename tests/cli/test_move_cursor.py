"""rewind and skip: cursors are moved by hand, or left unchanged."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from subprocess import PIPE

import asyncpg
import pytest

from reflex_aio.sql import LeasesTable
from tests.cli.commands import reflex_aio
from tests.cli.conftest import Service, cursors, events
from tests.waiting import deadline

pytestmark = pytest.mark.asyncio


async def at(service: Service, cursor: str, *, events: int = 20, consumer: str = "mail") -> None:
    """Insert events, and set the cursor of a consumer."""
    await service.insert(events)
    await cursors.set(service.connection, consumer, cursor)


@asynccontextmanager
async def up_to_prompt(service: Service, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command up to its prompt."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reflex_aio", *command, *service.options, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )  # fmt: skip
    try:
        assert process.stderr
        async with asyncio.timeout(deadline(20)):
            await process.stderr.readuntil(b"[y/N] ")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


# rewind


async def test_a_rewind_shows_both_cursors_and_moves_after_confirmation(service: Service) -> None:
    await at(service, "15")
    prompted = await service.reflex_aio("rewind", "mail", "--to", "10", given="y\n")
    assert prompted.done().out == "mail: from 15 to 10, 5 events to be consumed again\n"
    assert "Rewind mail from 15 to 10, to consume 5 events again? [y/N]" in prompted.err
    assert await service.cursors() == {"mail": "10"}
    moved = await service.reflex_aio("rewind", "mail", "--to", "7", "--yes", "--json")
    assert moved.done().json == {"consumer": "mail", "before": "10", "after": "7", "events": 3, "moved": True}
    assert await service.cursors() == {"mail": "7"}


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
async def test_nothing_is_done_without_confirmation(service: Service, answer: str) -> None:
    await at(service, "15")
    for arguments in (("rewind", "mail", "--to", "10"), ("skip", "mail")):
        refused = await service.reflex_aio(*arguments, given=answer)
        assert (refused.status, refused.out) == (4, "")
        assert "nothing was changed" in refused.err
    assert await service.cursors() == {"mail": "15"}


async def test_a_dry_run_changes_nothing_and_does_not_prompt(service: Service) -> None:
    await at(service, "15")
    outcome = await service.reflex_aio("rewind", "mail", "--to", "10", "--dry-run")
    assert outcome.done().out.endswith("5 events to be consumed again (dry run: nothing was changed)\n")
    outcome = await service.reflex_aio("skip", "mail", "--dry-run", "--json")
    assert outcome.done().json == {
        "consumer": "mail",
        "before": "15",
        "after": "16",
        "events": 1,
        "moved": False,
    }
    assert await service.cursors() == {"mail": "15"}


async def test_a_rewind_past_the_retained_events_is_refused_and_to_the_oldest_is_not(
    service: Service,
) -> None:
    await at(service, "15")
    await service.connection.execute("DELETE FROM user_events WHERE id < 8")
    for cursor in ("6", "0"):
        refused = await service.reflex_aio("rewind", "mail", "--to", cursor, "--yes")
        assert refused.failed(4).startswith(
            f"user_events retains events from 8 on: a consumer at {cursor} would miss earlier ones"
        )
    assert await service.cursors() == {"mail": "15"}
    await service.reflex_aio("rewind", "mail", "--to-oldest", "--yes")
    assert await service.cursors() == {"mail": "7"}
    async with (
        asyncpg.create_pool(service.dsn, min_size=1, max_size=2) as pool,
        events.stream(pool, "7", to_head=True) as stream,
    ):
        assert [event.id async for event in stream][:2] == ["8", "9"]


async def test_a_rewind_goes_to_the_first_event_since_a_time(service: Service) -> None:
    await at(service, "15")
    await service.connection.execute(
        "UPDATE user_events SET timestamp = now() - (20 - id) * interval '1 hour'"
    )
    when = await service.connection.fetchval(
        "SELECT to_char((now() - interval '330 min') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS')"
    )
    for since in ("5.5h", "330m", when):
        outcome = await service.reflex_aio("rewind", "mail", "--since", since, "--dry-run", "--json")
        assert outcome.done().json["after"] == "14"
    # Before the oldest event.
    outcome = await service.reflex_aio("rewind", "mail", "--since", "9d", "--dry-run", "--json")
    assert outcome.done().json["after"] == "0"


async def test_a_rewind_that_is_not_backwards_is_refused(service: Service) -> None:
    await at(service, "15")
    for cursor in ("15", "16"):
        refused = await service.reflex_aio("rewind", "mail", "--to", cursor, "--yes")
        assert refused.failed(4) == f"mail is at 15: {cursor} is not before that; to move forward, use skip"
    await service.connection.execute("DELETE FROM user_events")
    refused = await service.reflex_aio("rewind", "mail", "--to-oldest", "--yes")
    assert refused.failed(4) == "user_events is empty: there is nothing to consume again"
    assert await service.cursors() == {"mail": "15"}


@pytest.mark.parametrize("command", [["rewind", "mail", "--to", "10"], ["skip", "mail", "--count", "3"]])
async def test_a_consumer_that_moves_during_the_prompt_is_not_moved(
    service: Service, command: list[str]
) -> None:
    await at(service, "15")
    async with up_to_prompt(service, *command) as process:
        await cursors.set(service.connection, "mail", "16")
        out, errors = await process.communicate(b"y\n")
    assert (process.returncode, out) == (4, b"")
    assert errors == b"reflex-aio: mail has moved to 16: nothing was changed; stop the consumer first\n"
    assert await service.cursors() == {"mail": "16"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_prompt_can_be_interrupted(service: Service, number: int) -> None:
    await at(service, "15")
    async with up_to_prompt(service, "skip", "mail") as process:
        process.send_signal(number)
        # Its standard input stays open, without an answer.
        async with asyncio.timeout(deadline(20)):
            assert await process.wait() == 128 + number
    assert await service.cursors() == {"mail": "15"}


# skip


async def test_skip_skips_the_next_event_and_shows_it(service: Service) -> None:
    await at(service, "15")
    skipped = await service.reflex_aio("skip", "mail", given="y\n")
    assert skipped.done().out == "mail: from 15 to 16, 1 event skipped\n"
    assert skipped.err.splitlines()[0].split()[0] == "16"
    assert "Skip 1 event of mail, from 15 to 16? [y/N]" in skipped.err
    assert await service.cursors() == {"mail": "16"}


async def test_skip_counts_events_not_ids(service: Service) -> None:
    await at(service, "1")
    await service.connection.execute("DELETE FROM user_events WHERE id BETWEEN 2 AND 6")
    outcome = await service.reflex_aio("skip", "mail", "--count", "3", "--yes", "--json")
    assert outcome.done().json == {
        "consumer": "mail",
        "before": "1",
        "after": "9",
        "events": 3,
        "moved": True,
    }
    assert await service.cursors() == {"mail": "9"}


@pytest.mark.parametrize(
    ("arguments", "after", "count"), [(["--to", "12"], "12", 9), (["--to-head"], "20", 17)]
)
async def test_skip_goes_to_a_cursor_or_the_head(
    service: Service, arguments: list[str], after: str, count: int
) -> None:
    await at(service, "3")
    skipped = await service.reflex_aio("skip", "mail", *arguments, "--yes")
    assert skipped.done().out == f"mail: from 3 to {after}, {count} events skipped\n"
    assert [line.split()[0] for line in skipped.err.splitlines()] == ["4", "5", "6", "7", "8", "..."]
    assert skipped.err.splitlines()[-1].split() == ["...", "and", str(count - 5), "more"]
    assert await service.cursors() == {"mail": after}


async def test_a_skip_that_is_not_forwards_is_refused(service: Service) -> None:
    await at(service, "20")
    assert (await service.reflex_aio("skip", "mail", "--yes")).failed(4) == (
        "mail is at the head: there is nothing to skip"
    )
    assert (await service.reflex_aio("skip", "mail", "--to", "21", "--yes")).failed(4) == (
        "user_events ends at 20: there is no event 21 to skip to"
    )
    assert (await service.reflex_aio("skip", "mail", "--to", "20", "--yes")).failed(4) == (
        "mail is at 20: 20 is not after that; to move back, use rewind"
    )
    assert await service.cursors() == {"mail": "20"}


async def test_skip_accepts_a_consumer_without_a_cursor_with_new_only(
    service: Service,
) -> None:
    await service.insert(5)
    assert (await service.reflex_aio("skip", "new", "--to-head", "--yes")).status == 3
    skipped = await service.reflex_aio("skip", "new", "--new", "--yes")
    assert skipped.done().out == "new: from the beginning to 1, 1 event skipped\n"
    assert await service.cursors() == {"new": "1"}


# Both


@pytest.mark.parametrize("command", [["rewind", "nobody", "--to", "1"], ["skip", "nobody"]])
async def test_an_unknown_consumer_is_not_found_and_changes_nothing(
    service: Service, command: list[str]
) -> None:
    unknown = await service.reflex_aio(*command, "--yes")
    assert unknown.failed(3) == "cursors has no consumer 'nobody': it is empty"
    await at(service, "15")
    unknown = await service.reflex_aio(*command, "--yes")
    assert unknown.failed(3) == "cursors has no consumer 'nobody': it has mail"
    assert await service.cursors() == {"mail": "15"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["rewind", "mail"], "use exactly one of --to, --to-oldest and --since"),
        (["rewind", "mail", "--to", "1", "--to-oldest"], "use exactly one of"),
        (["rewind", "mail", "--to", "x"], "'x' is not a cursor"),
        (["rewind", "mail", "--to", "-1"], "'-1' is not a cursor"),
        (["rewind", "mail", "--since", "noon"], "--since 'noon' is not accepted: accepted is 90s, 30m, 2h or 7d"),
        (["rewind", "mail", "--since", "2990-01-01"], "--since '2990-01-01' is in the future"),
        (["skip", "mail", "--to", "1", "--to-head"], "use at most one of --count, --to and --to-head"),
        (["skip", "mail", "--to", "1.5"], "'1.5' is not a cursor"),
    ],
)  # fmt: skip
async def test_wrong_arguments_are_refused_and_change_nothing(
    service: Service, arguments: list[str], reason: str
) -> None:
    await at(service, "15")
    assert (await service.reflex_aio(*arguments, "--yes")).failed(2).startswith(reason)
    assert await service.cursors() == {"mail": "15"}


@pytest.mark.parametrize("command", [["rewind", "mail", "--to", "1"], ["skip", "mail"]])
async def test_missing_and_foreign_tables_are_errors_and_stay_unchanged(
    service: Service, command: list[str]
) -> None:
    await at(service, "15")
    await service.connection.execute("CREATE TABLE others (id text PRIMARY KEY, last_event_id bigint)")
    await service.connection.execute("INSERT INTO others VALUES ('mail', 7)")
    for option in ("--events", "--cursors"):
        assert (
            (await service.reflex_aio(*command, option, "nothing", "--yes")).failed(3).startswith("nothing: ")
        )
        assert (
            (await service.reflex_aio(*command, option, "others", "--yes")).failed(1).startswith("others: ")
        )
    assert await service.cursors() == {"mail": "15"}
    assert await service.connection.fetchval("SELECT last_event_id FROM others") == 7


@pytest.mark.parametrize("command", [["rewind", "mail", "--to", "1"], ["skip", "mail"]])
async def test_a_database_that_is_down_is_an_error_without_the_password(
    command: list[str], unused_tcp_port: int
) -> None:
    dsn = f"postgresql://me:s3cret@127.0.0.1:{unused_tcp_port}/app"
    error = (await reflex_aio(*command, "--yes", "--dsn", dsn)).failed(5)
    assert "s3cret" not in error


async def test_a_cursor_that_is_not_an_event_id_is_not_moved(service: Service) -> None:
    await service.insert(3)
    opaque = cursors.replace(name="opaque", cursor_type="str")
    await opaque.create(service.connection)
    await opaque.set(service.connection, "mail", "a/b")
    for command in (["rewind", "mail", "--to", "1"], ["skip", "mail"]):
        assert (
            (await service.reflex_aio(*command, "--cursors", "opaque", "--yes"))
            .failed(2)
            .startswith("'a/b' is")
        )
    assert await opaque.all(service.connection) == {"mail": "a/b"}


async def test_the_time_of_a_move_is_stored(service: Service) -> None:
    await at(service, "15")
    await service.connection.execute("UPDATE cursors SET updated_at = '2000-01-01'")
    await service.reflex_aio("rewind", "mail", "--to", "10", "--yes")
    [state] = await cursors.states(service.connection)
    assert state.updated_at is not None
    assert state.updated_at.year >= datetime.now(UTC).year - 1


@pytest.mark.parametrize("command", [["rewind", "mail", "--to", "10"], ["skip", "mail"]])
async def test_a_consumer_whose_lease_is_held_is_moved_with_force_only(
    service: Service, pool: asyncpg.Pool, command: list[str]
) -> None:
    await at(service, "15")
    leases = LeasesTable("leases")
    await leases.create(service.connection)
    held = await leases.store(pool).acquire("mail", "replica-1", ttl=600)
    assert held is not None
    refused = (await service.reflex_aio(*command, "--yes")).failed(4)
    assert refused.startswith("mail is running: replica-1 holds its lease for another ")
    assert await service.cursors() == {"mail": "15"}
    (await service.reflex_aio(*command, "--yes", "--dry-run", "--force")).done()
    await leases.store(pool).release(held)
    (await service.reflex_aio(*command, "--yes")).done()
    assert await service.cursors() != {"mail": "15"}
