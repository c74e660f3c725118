"""What docs/cli_transcript.md shows: commands that are really run, on the tables of the demonstration.

``make transcript`` writes it; a test compares it with what the commands write today. The times of events and cursors
are set before each command, and made the same afterwards, so that only what has changed is a difference.
"""

import asyncio
import os
import re
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT

import asyncpg

from examples.users.schema import create_tables, cursors, user_events
from examples.users.search import search_spec
from examples.users.service import TeamIsFull, Users
from reflex_aio import Event, Spec, run
from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.patterns import DeadLetterConsumer
from reflex_aio.sql import ErrorsTable, close_notifiers

CHECKOUT = Path(__file__).parents[2]
DOCUMENT = CHECKOUT / "docs" / "cli_transcript.md"

_TITLE = """\
# The command, tried

What a new user sees who tries [the command](cli.md) on the users service of the demonstration, after some users have
signed up. `make transcript` has run these commands and written this page; a test compares it with what they write now.
"""

# A handler as a user would have one: it sends mails, and has been mended since.
_HANDLER = """\
async def send_mail(event):
    print("a mail to user", event.foreign_id)
"""

# What differs from run to run, and what is shown in its place, as wide.
_DIFFERING = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"), "2026-01-31 12:00:00.000"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"), "2026-01-31T12:00:00Z"),
    (re.compile(r"\"seconds_behind\":108\d\d(\.\d+)?"), '"seconds_behind":10800.0'),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:50051"),
)


class Transcript:
    """Runs commands, and writes down what is seen.

    :param dsn: the users service's database
    :param directory: where the user is
    """

    def __init__(self, dsn: str, connection: asyncpg.Connection, directory: Path) -> None:
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("REFLEX_")},
            "REFLEX_DSN": dsn,
            "REFLEX_EVENTS": user_events.name,
            "PYTHONPATH": str(CHECKOUT),
            "COLUMNS": "100",
        }
        self._connection = connection
        self._directory = directory
        self._sections: list[str] = [_TITLE]
        self._lines: list[str] = []

    def say(self, text: str) -> None:
        """Tell what comes next."""
        self._end()
        self._sections.append(f"{text}\n")

    def shown(self, *lines: str) -> None:
        """Show lines that are no command's."""
        self._lines += lines

    async def run(self, line: str, *, answer: str | None = None, status: int = 0) -> None:
        """Run a command as it would be typed, and its exit status if it isn't 0.

        :raises AssertionError: if it ends with another status
        """
        await self._three_hours_ago()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *shlex.split(line.replace("reflex-aio", "reflex_aio", 1)),
            stdin=PIPE, stdout=PIPE, stderr=STDOUT, env=self._environment, cwd=self._directory,
        )  # fmt: skip
        written, _ = await process.communicate(None if answer is None else f"{answer}\n".encode())
        text = written.decode()
        if answer is not None:
            # As the terminal shows what is typed.
            text = text.replace("[y/N] ", f"[y/N] {answer}\n")
        assert process.returncode == status, f"{line}: {process.returncode}\n{text}"
        self._lines += [f"$ {line}", *text.splitlines()]
        if status:
            self._lines += ["$ echo $?", str(status)]

    @asynccontextmanager
    async def in_background(self, line: str) -> AsyncIterator[str]:
        """Run a command that ends when it is asked to, and return the last word of its first line."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *shlex.split(line.replace("reflex-aio", "reflex_aio", 1).replace(":50051", ":0")),
            stdin=DEVNULL, stdout=PIPE, env=self._environment, cwd=self._directory,
        )  # fmt: skip
        try:
            assert process.stdout
            async with asyncio.timeout(30):
                first = (await process.stdout.readline()).decode().rstrip()
            self._lines += [f"$ {line} &", first]
            yield first.split()[-1]
            self._lines += ["$ kill %1; wait %1; echo $?"]
            process.terminate()
            self._lines += [str(await process.wait())]
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    def text(self) -> str:
        """Return all of it."""
        self._end()
        text = "\n".join(self._sections)
        for differing, same in _DIFFERING:
            text = differing.sub(same, text)
        return text

    def _end(self) -> None:
        if self._lines:
            block = "\n".join(self._lines)
            self._sections.append(f"```console\n{block}\n```\n")
            self._lines = []

    async def _three_hours_ago(self) -> None:
        for table, column in (("user_events", "timestamp"), ("cursors", "updated_at")):
            await self._connection.execute(f"UPDATE {table} SET {column} = now() - interval '3 hours'")


async def transcript() -> str:
    """Return what docs/cli_transcript.md should be."""
    with tempfile.TemporaryDirectory() as directory:
        async with EmbeddedPostgres(settings={"fsync": False}) as server:
            connection = await asyncpg.connect(server.dsn)
            try:
                async with asyncpg.create_pool(server.dsn, min_size=1, max_size=10) as pool:
                    await _users_sign_up(pool)
                    await _a_mail_fails(pool)
                    await close_notifiers()
                session = Transcript(server.dsn, connection, Path(directory))
                (Path(directory) / "mail.py").write_text(_HANDLER)
                await _try_everything(session)
            finally:
                await connection.close()
    return session.text()


async def _users_sign_up(pool: asyncpg.Pool) -> None:
    """Let users sign up, one of them in vain; and the search index follow them, up to the last two events."""
    async with pool.acquire() as connection:
        await create_tables(connection)
        teams = "INSERT INTO teams (name, free_seats) VALUES ('open', 9), ('full', 0) RETURNING id"
        open_team, full_team = [row[0] for row in await connection.fetch(teams)]
    users = Users(pool)
    ann = await users.sign_up(open_team, "ann@example.com")
    try:
        await users.sign_up(full_team, "bob@example.com")
    except TeamIsFull:
        pass
    cyd = await users.sign_up(open_team, "cyd at example.com")
    await users.change_email(ann, "ann@example.org")
    search = search_spec(pool)
    await run(Spec(search.source, search.store, search.consumer, to_head=True))
    await users.sign_up_many(open_team, ["dan@example.com", "eve@example.com"])
    await users.change_email(cyd, "cyd@example.com")


async def _a_mail_fails(pool: asyncpg.Pool) -> None:
    """Let a mailer send mails, with one that it gives up on."""
    errors = ErrorsTable()
    async with pool.acquire() as connection:
        await errors.create(connection)

    async def send_mail(event: Event) -> None:
        if event.id == "3":
            raise ValueError("no address: 'cyd at example.com'")

    mailer = DeadLetterConsumer("mailer", send_mail, errors.recorder(pool), retries=0)
    await run(Spec(user_events.source(pool), cursors.store(pool), mailer, to_head=True))


async def _try_everything(session: Transcript) -> None:
    session.say("The database and its events table are named once, by the environment or by options.")
    session.shown("$ export REFLEX_DSN=postgresql://localhost/users REFLEX_EVENTS=user_events")
    await session.run("reflex-aio validate events cursors errors")

    session.say(
        "What has happened so far. The id in between was that of a user whom the team had no room for."
    )
    await session.run("reflex-aio tail --to-head")
    await session.run("reflex-aio tail --to-head --types 2 --json")

    session.say("Who has consumed how much of it.")
    await session.run("reflex-aio consumers")
    await session.run("reflex-aio consumers --only search --json")
    await session.run("reflex-aio consumers --max-lag 300", status=1)

    session.say(
        "The mailer has given up on an event. Its function has been mended since, so it gets the event again."
    )
    await session.run("reflex-aio dead-letters list")
    await session.run("reflex-aio dead-letters show 1")
    session.shown("$ cat mail.py", *_HANDLER.splitlines())
    await session.run("reflex-aio dead-letters replay 1 --handler mail:send_mail")
    await session.run("reflex-aio dead-letters resolve 1")

    session.say("The search index is to be made anew from the second event on: its consumer goes back.")
    await session.run("reflex-aio rewind search --to 1 --dry-run")
    await session.run("reflex-aio rewind search --to 1", answer="y")

    session.say("And it is stuck at the next event, which nobody needs.")
    await session.run("reflex-aio skip search", answer="n", status=4)
    await session.run("reflex-aio skip search --yes")
    await session.run("reflex-aio skip search --to-head --dry-run --json")

    session.say("Old events are deleted, but none that somebody has still to come to, unless one insists.")
    await session.run("reflex-aio prune --older-than 2h --dry-run")
    await session.run("reflex-aio prune --older-than 2h --json")
    await session.run("reflex-aio prune --before 6 --force", answer="n", status=4)

    session.say("They are gone now. What would miss some is refused, and so is what makes no sense.")
    await session.run("reflex-aio rewind search --to 1 --yes", status=4)
    await session.run("reflex-aio rewind nobody --to-oldest --yes", status=3)
    await session.run("reflex-aio skip mailer --yes", status=4)
    await session.run("reflex-aio consumers")

    session.say("The table as a service, and its client.")
    async with session.in_background("reflex-aio serve --listen 127.0.0.1:50051") as address:
        await session.run(f"reflex-aio tail --grpc {address} --after 5 --to-head")

    session.say("What is wrong is told in a line.")
    await session.run("reflex-aio tail --events userevents", status=3)
    await session.run("reflex-aio tail --events users", status=1)
    await session.run("reflex-aio consumers --dsn localhost/users", status=2)
    await session.run("reflex-aio consumers --dsn postgresql://127.0.0.1:1/users", status=5)


if __name__ == "__main__":
    DOCUMENT.write_text(asyncio.run(transcript()))
