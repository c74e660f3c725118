"""What the server was asked to execute, from its own log."""

import re
from dataclasses import dataclass

import pytest

from reflex_aio.ext.embedded import EmbeddedPostgres
from tests.fix_databases import Database


@dataclass(frozen=True)
class Statement:
    """One statement that a backend was about to execute."""

    pid: int
    application: str
    text: str


class Statements:
    """The statements of one database, in the order of the server's log.

    A backend writes a statement to the log before it executes it: what has been answered is there. Each
    execution of a prepared statement counts.
    """

    def __init__(self, server: EmbeddedPostgres, database: str) -> None:
        self._log = server.log
        self._offset = self._log.stat().st_size
        # As log_line_prefix of tests.fix_servers has it; further lines of a statement begin with a tab.
        self._line = re.compile(
            rf"^\S+ \S+ \S+ \[(\d+)\] {re.escape(database)} (.*)"
            r" LOG:  (?:statement|execute [^:]*): (.*(?:\n\t.*)*)",
            re.MULTILINE,
        )

    def taken(self) -> list[Statement]:
        """The statements since the last call, or since the fixture was set up."""
        with self._log.open("rb") as log:
            log.seek(self._offset)
            written = log.read()
        self._offset += len(written)
        return [
            Statement(int(pid), application, text.replace("\n\t", "\n"))
            for pid, application, text in self._line.findall(written.decode())
        ]


@pytest.fixture
def statements(database: Database) -> Statements:
    """The statements executed in the test's database, by anyone; the test is marked ``suite_server``."""
    if not isinstance(database.server, EmbeddedPostgres):
        raise pytest.UsageError("a test that counts statements reads the server's log: mark it suite_server")
    return Statements(database.server, database.name)
