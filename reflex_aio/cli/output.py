"""The output of commands: lines, tables and progress for people, JSON for programs, and confirmation prompts."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from reflex_aio.cli.command import CommandError, Exit, interruptible
from reflex_aio.event import Event

__all__ = [
    "confirm",
    "event_to_json",
    "format_count",
    "format_duration",
    "format_event",
    "format_time",
    "make_table",
    "print_json",
    "print_line",
    "print_lines",
    "print_note",
    "print_table",
    "show_progress",
    "show_steps",
    "to_json",
]

# The width for output that is not a terminal: nothing must be wrapped.
_UNWRAPPED = 10_000


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, and flush them: the reader may be a program that waits for them."""
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def print_line(text: str) -> None:
    """Print a line."""
    print_lines([text])


def print_json(document: Any) -> None:
    """Print a document as a line of JSON."""
    print_lines([to_json(document)])


def print_note(text: str) -> None:
    """Print a line to standard error, for a person: it is not part of the output."""
    typer.echo(text, err=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table. See :func:`make_table`."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=_UNWRAPPED)
    with console.capture() as captured:
        console.print(make_table(columns, rows, title=title))
    print_lines(line.rstrip() for line in captured.get().splitlines())


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> Table:
    """Return a table. Columns whose names start with ``#`` contain numbers."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        title=title,
        title_justify="left",
        title_style="",
    )
    for name in columns:
        table.add_column(name.removeprefix("#"), justify="right" if name.startswith("#") else "left")
    for row in rows:
        table.add_row(*row)
    return table


def to_json(document: Any) -> str:
    """Return a document as a line of JSON: bytes in Base64, times in ISO 8601."""
    return msgspec.json.encode(document).decode()


def event_to_json(event: Event) -> str:
    """Return an event as a line of JSON."""
    return to_json(
        {
            "id": event.id,
            "type": event.type,
            "foreign_id": event.foreign_id,
            "timestamp": event.timestamp,
            "metadata": event.metadata,
            "trace": event.trace,
        }
    )


def format_event(event: Event) -> str:
    """Return an event as a line for people."""
    line = f"{event.id:>8}  {format_time(event.timestamp)}  {event.type:>4}  {event.foreign_id}"
    return line if event.metadata is None else f"{line}  {_format_bytes(event.metadata)}"


def _format_bytes(data: bytes) -> str:
    """Return bytes as text if they can be shown in a line, otherwise as hexadecimal digits."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return f"0x{data.hex()}"
    return text if text.isprintable() else repr(text)


def format_count(events: int) -> str:
    """Return a number of events: ``1 event``, ``2 events``."""
    return f"{events} event" if events == 1 else f"{events} events"


def format_duration(seconds: float) -> str:
    """Return a duration with one unit: ``0.4 s``, ``12 s``, ``3 min``, ``5 h``, ``2 d``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def format_time(time: datetime) -> str:
    """Return a time in UTC, to the millisecond."""
    return f"{time:%Y-%m-%d %H:%M:%S}.{time.microsecond // 1000:03d}"


def confirm(question: str, *, yes: bool) -> None:
    """Prompt for confirmation, unless ``yes`` is true.

    :raises CommandError: if the answer is not yes, or there is no answer
    """
    if yes:
        return
    with interruptible():
        typer.echo(f"{question} [y/N] ", err=True, nl=False)
        answer = sys.stdin.readline()
    if not answer:
        print_note("")
        raise CommandError(
            "no answer: nothing was changed; use --yes to proceed without confirmation", Exit.REFUSED
        )
    if answer.strip().lower() not in ("y", "yes"):
        raise CommandError("nothing was changed", Exit.REFUSED)


@contextmanager
def show_steps(*steps: str) -> Iterator[Callable[[], None]]:
    """Show the current one of several steps, on a terminal only. Yields a function to call at the start of each."""
    left = iter(enumerate(steps, 1))
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda: None
        return
    with console.status("") as status:

        def start_step() -> None:
            number, name = next(left)
            status.update(f"{number}/{len(steps)} {name}")

        yield start_step


@contextmanager
def show_progress(work: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a progress bar, on a terminal only.

    Yields a function to call with the amount done, the total amount, and a text to show beside the bar.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total, text: None
        return
    with Progress(*Progress.get_default_columns(), "{task.fields[text]}", console=console) as bar:
        task = bar.add_task(work, total=None, text="")
        yield lambda done, total, text: bar.update(task, completed=done, total=total, text=text)
