"""What a dialect has to do to lend leases, and to compare them."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

from reflex_aio.lease import Lease
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import LeasesSchema

__all__ = ["LeasesDialect"]


class LeasesDialect(ABC):
    """The leases of one table, in one dialect. Has no state beside the statements' texts.

    A row stays for good, as its epoch counts on; that of a released name has the owner ``""``. What time it is, the
    database tells.
    """

    @abstractmethod
    def __init__(self, schema: LeasesSchema) -> None: ...

    @abstractmethod
    async def acquire(self, driver: Driver, connection: Any, name: str, owner: str, ttl: float) -> int | None:
        """Lend ``name`` to ``owner`` for ``ttl`` seconds, and return the epoch; ``None`` if somebody else holds it."""

    @abstractmethod
    async def renew(self, driver: Driver, connection: Any, lease: Lease, ttl: float) -> bool:
        """Let ``lease`` expire in ``ttl`` seconds; tell whether it was still to be renewed."""

    @abstractmethod
    async def release(self, driver: Driver, connection: Any, lease: Lease) -> None:
        """Free the name of ``lease``, unless that is lost."""

    @abstractmethod
    async def all(self, driver: Driver, connection: Any) -> Sequence[tuple[str, str, int, float]]:
        """Return names, owners, epochs, and the seconds left."""

    @abstractmethod
    async def hold(self, driver: Driver, connection: Any, leases: Collection[Lease]) -> set[Lease]:
        """Return those of ``leases`` that aren't lost, nor will be until the transaction on ``connection`` ends.

        Who acquires their names meanwhile waits for that; if somebody is about to, this waits.
        """
