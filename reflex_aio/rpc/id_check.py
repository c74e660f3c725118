"""The check that every page of a remote stream passes before it is delivered: its ids may follow the cursor."""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from operator import lt

from reflex_aio.checks import is_storable_text
from reflex_aio.cursor import is_number
from reflex_aio.errors import InvalidCursor
from reflex_aio.rpc.protocol import MalformedMessage

__all__ = ["IdCheck"]

_GREATEST_ID = len(str(2**63 - 1)), str(2**63 - 1)

# How many of the last opaque ids are remembered, to detect a repetition.
_REMEMBERED = 10_000


class IdCheck:
    """Checks the ids of one stream, across all of its calls.

    Integer ids must increase strictly, so that no event is repeated and no cursor moves backwards. Opaque ids have no
    order: they must not be empty, and none may be one of the last 10,000.
    """

    def __init__(self) -> None:
        # Hashes, as ids may be long. Hashes of strings can't be predicted, so that a peer can't make two ids collide.
        self._recent: deque[int] = deque()
        self._seen: set[int] = set()

    def check(self, ids: Sequence[str], *, after: str, opaque: bool | None) -> None:
        """Check that a page with these ids may be delivered.

        :param after: the cursor before the page
        :param opaque: whether ids are opaque; ``None`` if they are integers as long as they look like integers
        :raises MalformedMessage: if it may not
        :raises InvalidCursor: if ids are integers and the cursor is none
        """
        if opaque is None:
            opaque = not (is_number(after or "0") and is_number(ids[0]))
        if opaque:
            self._check_opaque(ids, after)
        else:
            _check_integers(ids, after)

    def _check_opaque(self, ids: Sequence[str], after: str) -> None:
        if not self._recent:
            self._recent.append(hash(after))
            self._seen.add(hash(after))
        keys: set[int] = set()
        for event_id in ids:
            if not is_storable_text(event_id):
                raise MalformedMessage(f"event id {event_id!r} is empty, or contains a NUL")
            key = hash(event_id)
            if key in self._seen or key in keys:
                raise MalformedMessage(f"event {event_id!r} is repeated")
            keys.add(key)
        # Only now: a page that is refused is not delivered, and its first events may come again.
        self._seen |= keys
        self._recent.extend(map(hash, ids))
        while len(self._recent) > _REMEMBERED:
            self._seen.discard(self._recent.popleft())


def _check_integers(ids: Sequence[str], after: str) -> None:
    if after and not is_number(after):
        raise InvalidCursor(after, "an integer, as are the event ids of the remote stream")
    after = after.lstrip("0")
    if not (_increase(ids) and _order(after) < _order(ids[0]) and _order(ids[-1]) <= _GREATEST_ID):
        raise MalformedMessage(_complaint(ids, after))


def _order(event_id: str) -> tuple[int, str]:
    """Return a key by which integers in their shortest form have the order of their values, with "" for 0."""
    return len(event_id), event_id


def _increase(ids: Sequence[str]) -> bool:
    """Return whether ``ids`` are decimal integers above 0, each in its shortest form and greater than the one before.

    Every event passes here: this takes a seventh of the time of converting ids to integers and back.
    """
    if not "".join(ids).encode().isdigit():
        return False
    if _have_same_length(ids):
        # Strings of the same length have the order of their numbers.
        return ids[0][:1] not in ("", "0") and all(map(lt, ids, islice(ids, 1, None)))
    keys = list(map(_order, ids))
    return not any(event_id[:1] in ("", "0") for event_id in ids) and all(
        map(lt, keys, islice(keys, 1, None))
    )


def _have_same_length(ids: Sequence[str]) -> bool:
    # Of lines of the same length, the newlines are that far apart. Digits contain none.
    lines, length, newlines = "\n".join(ids), len(ids[0]), "\n" * (len(ids) - 1)
    return len(lines) == (length + 1) * len(ids) - 1 and lines[length :: length + 1] == newlines


def _complaint(ids: Sequence[str], after: str) -> str:
    """Return what is wrong with the first of the ids that may not follow."""
    for event_id in ids:
        if not _increase([event_id]) or _order(event_id) > _GREATEST_ID:
            return (
                f"event id {event_id!r} is not an integer from 1 to {_GREATEST_ID[1]}; streams with other ids must"
                " declare opaque_ids"
            )
        if _order(event_id) <= _order(after):
            return f"event id {event_id!r} is not greater than the one before, {after or '0'!r}"
        after = event_id
    raise AssertionError
