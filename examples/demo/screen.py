"""The output of the demonstration, in colour on a terminal."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from time import monotonic

from rich.console import Console
from rich.status import Status
from rich.table import Table

from examples.demo.verdict import Verdict


class Screen:
    """Writes to standard output. Colours and the status line appear on terminals only; NO_COLOR turns off colours."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._began = monotonic()
        self._steps = 0

    def title(self, text: str) -> None:
        """Print the title, or the reason for an early end."""
        self._console.print(f"[bold]{text}[/]")

    def step(self, text: str) -> None:
        """Print the heading of the next step."""
        self._steps += 1
        self._console.print(f"\n[bold cyan]{self._steps}. {text}[/]")

    def note(self, text: str) -> None:
        """Print what happened, with the time since the start."""
        self._console.print(f"[dim]{monotonic() - self._began:5.1f} s[/]  {text}", soft_wrap=True)

    def status_line(self) -> AbstractContextManager[Status]:
        """Return a line that is updated in place, on a terminal only."""
        return self._console.status("")

    def events(self, rows: Sequence[tuple[str, ...]]) -> None:
        """Print rows of an events table."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("         ", "id", "type", "foreign_id", "timestamp"):
            table.add_column(name)
        for row in rows:
            table.add_row("", *row)
        self._console.print(table)

    def verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """Print the results, with a column for each consumer."""
        table = Table(header_style="bold")
        table.add_column("")
        for verdict in verdicts:
            table.add_column(verdict.consumer, justify="right")
        for name, cell in _MEASURES.items():
            table.add_row(name, *map(cell, verdicts))
        self._console.print(table)

    def success(self, text: str) -> None:
        self._console.print(f"[bold green]PASSED[/]  {text}", soft_wrap=True)

    def failure(self, text: str) -> None:
        self._console.print(f"[bold red]FAILED[/]  {text}", soft_wrap=True)


def _count_of_faults(count: int) -> str:
    return f"[bold red]{count}[/]" if count else "[green]0[/]"


def _yes_or_no(good: bool) -> str:
    return "[green]yes[/]" if good else "[bold red]NO[/]"


_MEASURES: Mapping[str, Callable[[Verdict], str]] = {
    "committed events": lambda verdict: str(verdict.committed),
    "consumed, distinct": lambda verdict: str(verdict.distinct),
    "delivered": lambda verdict: str(verdict.delivered),
    "repeated": lambda verdict: str(verdict.repeated),
    "missing": lambda verdict: _count_of_faults(verdict.missing),
    "consumed, but never committed": lambda verdict: _count_of_faults(verdict.foreign),
    "in order": lambda verdict: _yes_or_no(verdict.in_order),
    "cursor at the last event": lambda verdict: _yes_or_no(verdict.at_head),
}
