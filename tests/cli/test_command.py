"""The command itself: help, errors, exit status, dependencies."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from reflex_aio.cli.app import app
from tests.cli.commands import Outcome, call, reflex_aio

CHECKOUT = Path(__file__).parents[2]


def paths(command: object, *above: str) -> list[tuple[str, ...]]:
    """Return the words of each command."""
    found = getattr(command, "commands", None)
    if found is None:
        return [above]
    return [path for name in found for path in paths(found[name], *above, name)]


COMMANDS = paths(get_command(app))


def program(*arguments: str, code: str | None = None) -> Outcome:
    """Run the command as a program, or some code."""
    start = ["-m", "reflex_aio"] if code is None else ["-c", code]
    done = subprocess.run(
        [sys.executable, "-W", "error", *start, *arguments],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "COLUMNS": "100"},
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_without_arguments_it_shows_its_commands() -> None:
    shown = call()
    assert "Usage: reflex-aio" in shown.out
    for path in COMMANDS:
        assert f" {path[0]} " in shown.out


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_command_has_help_with_examples_of_itself(path: tuple[str, ...]) -> None:
    shown = call(*path, "--help").done().out
    examples = shown.partition("Examples:")[2]
    assert examples.count(f"reflex-aio {' '.join(path)}") >= 2
    # Lines must not be wrapped, so that they can be copied.
    assert all(len(line) <= 100 for line in shown.splitlines())


def test_the_module_is_the_command() -> None:
    assert program("ddl", "cursors").done().out == call("ddl", "cursors").out


def test_help_loads_no_client_library() -> None:
    code = "import sys; from reflex_aio.cli.app import app; print(*sys.modules)"
    loaded = set(program(code=code).done().out.split())
    assert "reflex_aio.cli.tables" in loaded
    assert not {"asyncpg", "aiomysql", "asyncmy", "grpc", "google.protobuf"} & loaded


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_extra_it_names_the_extra(missing: str) -> None:
    code = f"import sys; sys.modules['{missing}'] = None; from reflex_aio.__main__ import main; main()"
    error = program(code=code).failed(2)
    assert error == "the command needs typer and rich: pip install 'reflex-aio[cli]'"


@pytest.mark.parametrize("arguments", [["nothing"], ["validate", "nothing"], ["validate", "--nothing"]])
def test_an_unknown_command_or_option_is_wrong_usage(arguments: list[str]) -> None:
    outcome = call(*arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert "othing" in outcome.err


def test_without_a_database_it_names_the_option_and_the_variable() -> None:
    assert call("validate").failed(2) == "no database is given: use --dsn, or set REFLEX_DSN"


@pytest.mark.parametrize(
    "dsn", ["localhost/app", "oracle://me:s3cret@localhost/app", "postgresql://me:s3cret@localhost:port/app"]
)
def test_a_wrong_dsn_is_wrong_usage_and_is_not_shown(dsn: str) -> None:
    error = call("validate", "--dsn", dsn).failed(2)
    assert error.startswith("--dsn: the DSN")
    assert "s3cret" not in error


def test_a_server_that_is_down_is_unreachable(unused_tcp_port: int) -> None:
    error = call("validate", "--dsn", f"postgresql://me:s3cret@127.0.0.1:{unused_tcp_port}/app").failed(5)
    assert error.startswith(f"127.0.0.1:{unused_tcp_port}/app: the database can't be reached")


@pytest.mark.asyncio
async def test_an_unexpected_error_is_one_line_that_names_the_variable_for_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*arguments: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("reflex_aio.sql.schema.table.dialect_part", fails)
    error = (await reflex_aio("ddl", "events")).failed(1)
    assert error == "RuntimeError: two lines (set REFLEX_TRACEBACK=1 for a traceback)"
