"""What commands write: tables and lines for people, JSON for programs, and questions."""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from reflex_aio.cli.exits import CommandError, Exit
from reflex_aio.cli.running import interruptible

__all__ = [
    "ask",
    "duration",
    "json_line",
    "moment",
    "note",
    "print_json",
    "print_line",
    "print_lines",
    "print_table",
    "table",
]

# What isn't a terminal has no width: nothing is wrapped for it.
_UNWRAPPED = 10_000


def print_lines(lines: Iterable[str]) -> None:
    """Write lines at once, as whoever reads them may be a program."""
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def print_line(text: str) -> None:
    """Write a line."""
    print_lines([text])


def json_line(document: Any) -> str:
    """Return a document as a line of JSON: bytes in Base64, times in ISO 8601."""
    return msgspec.json.encode(document).decode()


def print_json(document: Any) -> None:
    """Write a document."""
    print_lines([json_line(document)])


def note(text: str) -> None:
    """Tell a person something, on standard error: it is no part of the output."""
    typer.echo(text, err=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> Table:
    """Return a table; a column whose name begins with ``#`` has numbers."""
    made = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        title=title,
        title_justify="left",
        title_style="",
    )
    for name in columns:
        made.add_column(name.removeprefix("#"), justify="right" if name.startswith("#") else "left")
    for row in rows:
        made.add_row(*row)
    return made


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Write a table."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=_UNWRAPPED)
    with console.capture() as captured:
        console.print(table(columns, rows, title=title))
    print_lines(line.rstrip() for line in captured.get().splitlines())


def ask(question: str, *, yes: bool) -> None:
    """Ask whether to go on, unless that was told before.

    :raises CommandError: if the answer isn't yes, or there is nobody to ask
    """
    if yes:
        return
    with interruptible():
        typer.echo(f"{question} [y/N] ", err=True, nl=False)
        answer = sys.stdin.readline()
    if not answer:
        note("")
        raise CommandError(
            "nobody has answered, and nothing has changed: --yes goes on without asking", Exit.REFUSED
        )
    if answer.strip().lower() not in ("y", "yes"):
        raise CommandError("nothing has changed", Exit.REFUSED)


def duration(seconds: float) -> str:
    """Return a duration as people say it: ``0.4 s``, ``12 s``, ``3 min``, ``5 h``, ``2 d``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def moment(when: datetime) -> str:
    """Return a time in UTC, to the millisecond."""
    return f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000:03d}"
