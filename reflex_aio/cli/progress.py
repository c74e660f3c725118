"""How far long work has come: a line that moves, on terminals alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

__all__ = ["progress"]


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
