"""Leases: who is the one that runs a consumer, until when, and what tells a holder of before from the present one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["Lease", "LeaseState", "LeaseStore", "check_lease", "check_ttl"]

# What fits the index of a table on MySQL, and what a lease may last without a renewal: a year, in seconds.
_LONGEST = 255
_LONGEST_TTL = 366 * 86_400


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that was acquired. A lease store makes it, and it means nothing to any other store.

    Having it says nothing about still holding it: time goes on, also for a process that is paused. So whatever only the
    holder may do is fenced: the store that does it compares the lease in the same step.
    """

    name: str
    """What is leased: a consumer's name, as a rule."""
    owner: str
    """Who acquired it."""
    epoch: int
    """How many times it has changed hands: of two leases of a name, the greater epoch is the later one."""


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What a lease store knows of a name."""

    owner: str
    """Who acquired it last; ``""`` once that one has released it."""
    epoch: int
    """How many times it has changed hands."""
    seconds_left: float
    """When it expires, in seconds from now by the store's clock; negative if it has expired already."""

    @property
    def is_held(self) -> bool:
        """Whether somebody holds it."""
        return self.owner != "" and self.seconds_left > 0


@runtime_checkable
class LeaseStore(Protocol):
    """Lends each name to one owner at a time. What time it is, the store tells, and nobody else."""

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        """Acquire ``name`` for ``owner``, or return ``None`` if somebody else holds it.

        Its epoch is greater by one than that of the lease before, which thereby is lost if it wasn't released. An owner
        that still holds the name gets its lease again, epoch and all.

        :param owner: who asks: a name that no other process has, nor had before a restart
        :param ttl: in how many seconds it expires, unless it is renewed
        """
        ...

    async def renew(self, lease: Lease, *, ttl: float) -> None:
        """Let ``lease`` expire in ``ttl`` seconds from now. One that has expired may be renewed until somebody else
        acquires it.

        :raises LeaseLost: if somebody else has acquired it, or it was released
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Give ``lease`` back, so that others can acquire the name at once. Does nothing if it is lost already."""
        ...

    async def all(self) -> Mapping[str, LeaseState]:
        """Return the state of every name that was ever acquired, held or not."""
        ...


def check_lease(name: str, owner: str) -> None:
    """Check that a lease can have this name and owner.

    :raises TypeError: if one is no string
    :raises ValueError: if one is empty, or holds what a database can't
    """
    for what, text in (("lease name", name), ("lease owner", owner)):
        if not isinstance(text, str):
            raise TypeError(f"{what} {text!r} is a {type(text).__name__}: accepted is a str")
        if not text or "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(
                f"{what} {text!r} is not accepted: it is empty, or holds a NUL or a lone surrogate"
            )


def check_ttl(ttl: float) -> None:
    """Check that a lease can expire in so many seconds.

    :raises TypeError: if it is no number
    :raises ValueError: if it is out of its range
    """
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
        raise TypeError(f"ttl {ttl!r} is a {type(ttl).__name__}: accepted is a number of seconds above 0")
    if not 0 < ttl <= _LONGEST_TTL:
        raise ValueError(
            f"ttl {ttl} is out of range: accepted is a number of seconds above 0, up to {_LONGEST_TTL}"
        )
