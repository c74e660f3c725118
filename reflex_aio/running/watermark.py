"""How far work has come that is begun in order and finished in any."""

from collections import deque

__all__ = ["Watermark"]


class Watermark:
    """Tells the cursor after the finished beginning of what was begun.

    Its size is the number of events from the first unfinished one on, whatever is passed over among them.
    """

    def __init__(self) -> None:
        self._cursor = ""
        # The cursors of what lies after the watermark, the first of them with the ticket _first.
        self._cursors: deque[str] = deque()
        self._first = 0
        self._finished: set[int] = set()

    def __len__(self) -> int:
        return len(self._cursors)

    @property
    def cursor(self) -> str:
        """The cursor after everything before the first unfinished event; ``""`` if that is the first of all."""
        return self._cursor

    def begin(self, cursor: str) -> int:
        """Add an event after those there are, and return its ticket. ``cursor`` is the one after it."""
        self._cursors.append(cursor)
        return self._first + len(self._cursors) - 1

    def pass_over(self, cursor: str) -> None:
        """Add an event after those there are that needs no work."""
        if self._cursors:
            # The watermark gets there with the one before; so those passed over take no memory.
            self._cursors[-1] = cursor
        else:
            self._cursor = cursor

    def finish(self, ticket: int) -> None:
        """Mark an event as finished. One that is behind the watermark may be finished once more.

        :raises ValueError: if there was no such ticket
        """
        self._check(ticket)
        if ticket < self._first:
            return
        self._finished.add(ticket)
        while self._first in self._finished:
            self._advance()

    def finish_through(self, ticket: int) -> None:
        """Mark an event and all before it as finished.

        :raises ValueError: if there was no such ticket
        """
        self._check(ticket)
        while self._first <= ticket or self._first in self._finished:
            self._advance()

    def _advance(self) -> None:
        self._finished.discard(self._first)
        self._cursor = self._cursors.popleft()
        self._first += 1

    def _check(self, ticket: int) -> None:
        if not 0 <= ticket < self._first + len(self._cursors):
            raise ValueError(f"ticket {ticket}: none such was given out")
