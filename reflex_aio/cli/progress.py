"""How far long work has come: a line that moves, on terminals alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

__all__ = ["bar", "progress"]


@contextmanager
def progress(*steps: str) -> Iterator[Callable[[], None]]:
    """Show which of some steps is under way; what it returns is called at the beginning of each."""
    left = iter(enumerate(steps, 1))
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda: None
        return
    with console.status("") as status:

        def step() -> None:
            number, name = next(left)
            status.update(f"{number}/{len(steps)} {name}")

        yield step


@contextmanager
def bar(work: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show how far some work has come; what it returns takes how much is done, of how much, and what to say of it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total, told: None
        return
    with Progress(*Progress.get_default_columns(), "{task.fields[told]}", console=console) as shown:
        task = shown.add_task(work, total=None, told="")
        yield lambda done, total, told: shown.update(task, completed=done, total=total, told=told)
