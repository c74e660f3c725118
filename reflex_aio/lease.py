"""Leases: which process runs a consumer, and until when. The interface of lease stores, and a lease's fencing token."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import anyio

from reflex_aio.checks import check_seconds, check_text

__all__ = ["Lease", "LeaseState", "LeaseStore", "check_lease", "check_ttl"]

# A year, in seconds.
_LONGEST_TTL = 366 * 86_400
# The time limit for each renewal of several, as a fraction of the ttl.
_RENEW_TIMEOUT = 1 / 5


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that was acquired, which serves as a fencing token. It is valid for the lease store that made it only.

    A process can never be certain that it still holds a lease, since it may be paused at any moment. Actions that are
    reserved for the owner are therefore fenced: the store that performs them compares the lease in the same step.
    """

    name: str
    """The leased name, usually a consumer's."""
    owner: str
    """The process that acquired it."""
    epoch: int
    """The number of times that the name has changed hands. Of two leases of a name, the greater epoch is later."""


@dataclass(frozen=True, slots=True)
class LeaseState:
    """The state of a leased name."""

    owner: str
    """The process that acquired it last; ``""`` once it was released."""
    epoch: int
    """The number of times that the name has changed hands."""
    seconds_left: float
    """The time until it expires, in seconds by the store's clock; negative if it has expired."""

    @property
    def is_held(self) -> bool:
        """True if a process holds it."""
        return self.owner != "" and self.seconds_left > 0


class LeaseStore(ABC):
    """Grants each name to one owner at a time. Only the store's own clock counts.

    It is an asynchronous context manager, which a :class:`~reflex_aio.Runner` enters for as long as it holds leases. A
    store may keep a connection meanwhile; by default, entering does nothing. Several may enter it at the same time.
    """

    lease_type: type[Lease] = Lease
    """The type of its leases. Cursor stores have a ``fence_type``, which is that type or one of its bases."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    @abstractmethod
    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        """Acquire ``name`` for ``owner``, or return ``None`` if another owner holds it.

        The epoch is that of the previous lease plus one; if the previous lease was not released, it is lost. An owner
        that still holds the name gets the same lease with the same epoch, and the new ``ttl``.

        :param owner: a name for the process, used by no other process, nor by this one before a restart
        :param ttl: time until the lease expires unless it is renewed, in seconds
        """

    @abstractmethod
    async def renew(self, lease: Lease, *, ttl: float) -> None:
        """Let ``lease`` expire in ``ttl`` seconds from now.

        A lease that has expired can be renewed until another owner acquires the name.

        :raises LeaseLost: if another owner has acquired it, or it was released
        """

    async def renew_many(self, leases: Collection[Lease], *, ttl: float) -> Mapping[Lease, Exception]:
        """Let each of ``leases`` expire in ``ttl`` seconds from now, and return the errors of those not renewed.

        A lease that cannot be renewed holds up no other. By default, :meth:`renew` is called for all at the same time.

        :return: a :class:`~reflex_aio.errors.LeaseLost` for a lease that is lost, another error for one that is unknown
        :raises Exception: if it is unknown which leases were renewed
        """
        errors: dict[Lease, Exception] = {}
        timeout = ttl * _RENEW_TIMEOUT

        async def renew(lease: Lease) -> None:
            try:
                with anyio.move_on_after(timeout):
                    await self.renew(lease, ttl=ttl)
                    return
                errors[lease] = TimeoutError(f"the lease store did not answer within {timeout:g} s")
            except Exception as exc:
                errors[lease] = exc

        async with anyio.create_task_group() as group:
            for lease in leases:
                group.start_soon(renew, lease)
        return errors

    @abstractmethod
    async def release(self, lease: Lease) -> None:
        """Release ``lease``, so that the name can be acquired at once. Does nothing if the lease is lost."""

    @abstractmethod
    async def all(self) -> Mapping[str, LeaseState]:
        """Return the state of every name that was ever acquired, held or not."""


def check_lease(name: str, owner: str) -> None:
    """Check the name and the owner of a lease.

    :raises TypeError: if one is not a string
    :raises ValueError: if a database cannot store one
    """
    check_text("lease name", name)
    check_text("lease owner", owner)


def check_ttl(ttl: float) -> None:
    """Check the time until a lease expires.

    :raises TypeError: if it is not a number
    :raises ValueError: if it is out of range
    """
    check_seconds("ttl", ttl, most=_LONGEST_TTL)
