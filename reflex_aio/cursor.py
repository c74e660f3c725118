"""Where consumers keep their cursors."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

__all__ = ["CursorStore"]


@runtime_checkable
class CursorStore(Protocol):
    """Keeps, for each consumer, the cursor of the last event that it consumed.

    A store that is also an asynchronous context manager is entered by :func:`~reflex_aio.spec.run`; several
    runs may share one store, and so enter it several times.
    """

    async def get(self, name: str) -> str:
        """Return the cursor of the consumer ``name``, or ``""`` if it has none."""
        ...

    async def set(self, name: str, cursor: str, *, expected: str | None = None) -> None:
        """Move the cursor of the consumer ``name`` forward to ``cursor``.

        :param expected: move it only if it stands there, ``""`` being nowhere
        :raises CursorConflict: if it would move backwards, or isn't where it is expected
        """
        ...

    async def flush(self) -> None:
        """Return once every cursor that was set is stored for good."""
        ...

    async def all(self) -> Mapping[str, str]:
        """Return the stored cursors by consumer."""
        ...
