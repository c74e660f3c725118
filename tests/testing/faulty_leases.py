"""Lease stores with one fault each, and cursor stores that compare leases with one fault each."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar

from anyio.lowlevel import checkpoint

from reflex_aio import CursorStore, Lease, LeaseLost, LeaseState, LeaseStore
from reflex_aio.memory import MemoryCursorStore, MemoryLeaseStore

FaultyLeases = Callable[[], AbstractAsyncContextManager[LeaseStore]]
FaultyFence = Callable[[], AbstractAsyncContextManager[tuple[CursorStore, LeaseStore]]]

LEASE_FAULTS: list[tuple[str, FaultyLeases]] = []
FENCE_FAULTS: list[tuple[str, FaultyFence]] = []


def caught_by(rule: str) -> Callable[[Any], Any]:
    """Add a fault, and the rule that has to tell of it."""

    def add(kind: Any) -> Any:
        @asynccontextmanager
        async def leases() -> AsyncIterator[LeaseStore]:
            yield kind()

        @asynccontextmanager
        async def fenced() -> AsyncIterator[tuple[CursorStore, LeaseStore]]:
            yield kind(), MemoryLeaseStore()

        leases.__name__ = fenced.__name__ = kind.__name__
        if issubclass(kind, MemoryCursorStore):
            FENCE_FAULTS.append((rule, fenced))
        else:
            LEASE_FAULTS.append((rule, leases))
        return kind

    return add


# Lease stores.


@caught_by("store_is_a_lease_store")
class DeclaresAnotherLeaseType(MemoryLeaseStore):
    lease_type: type[Lease] = type("AnotherLease", (Lease,), {})


@caught_by("leases_are_renewed_together")
class RenewsTheFirstAlone(MemoryLeaseStore):
    async def renew_many(self, leases: Collection[Lease], *, ttl: float) -> Mapping[Lease, Exception]:
        return await super().renew_many(list(leases)[:1], ttl=ttl)


@caught_by("leases_are_renewed_together")
class RenewsManyUntilOneIsLost(MemoryLeaseStore):
    async def renew_many(self, leases: Collection[Lease], *, ttl: float) -> Mapping[Lease, Exception]:
        for lease in leases:
            await self.renew(lease, ttl=ttl)
        return {}


@caught_by("store_is_a_lease_store")
class HasNoRelease:
    def __init__(self) -> None:
        store = MemoryLeaseStore()
        self.acquire, self.renew, self.all = store.acquire, store.renew, store.all


class Careless(MemoryLeaseStore):
    """Has a way to forget a name, and with it who holds it."""

    def forget(self, name: str) -> None:
        self._grants.pop(name, None)


@caught_by("lease_has_its_name_and_owner")
class CountsFromZero(MemoryLeaseStore):
    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        lease = await super().acquire(name, owner, ttl=ttl)
        return lease and Lease(lease.name, lease.owner, lease.epoch - 1)


@caught_by("held_lease_is_not_acquired_by_others")
class LendsToEverybody(Careless):
    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        self.forget(name)
        return await super().acquire(name, owner, ttl=ttl)


@caught_by("names_are_apart")
class NamesWithoutCase(MemoryLeaseStore):
    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        return await super().acquire(name.lower(), owner, ttl=ttl)


class CountsEachAcquiring(MemoryLeaseStore):
    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        state = (await self.all()).get(name)
        if state is not None and state.owner == owner:
            await self.release(self._lease(name, owner, state.epoch))
        return await super().acquire(name, owner, ttl=ttl)

    def _lease(self, name: str, owner: str, epoch: int) -> Lease:
        from reflex_aio.memory import _MemoryLease

        return _MemoryLease(name, owner, epoch, self)


caught_by("own_lease_keeps_its_epoch")(CountsEachAcquiring)


@caught_by("acquiring_again_renews")
class KeepsTheFirstTime(MemoryLeaseStore):
    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        state = (await self.all()).get(name)
        own = state is not None and state.is_held and state.owner == owner
        return await super().acquire(name, owner, ttl=state.seconds_left if state and own else ttl)


@caught_by("expired_lease_can_be_acquired")
class ForgetsEpochs(Careless):
    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        state = (await self.all()).get(name)
        if state is not None and not state.is_held:
            self.forget(name)
        return await super().acquire(name, owner, ttl=ttl)


@caught_by("expired_lease_can_be_acquired")
class RenewsWhatIsLost(MemoryLeaseStore):
    async def renew(self, lease: Lease, *, ttl: float) -> None:
        try:
            await super().renew(lease, ttl=ttl)
        except LeaseLost:
            pass


@caught_by("own_expired_lease_gets_another_epoch")
class TakesBackItsOwn(MemoryLeaseStore):
    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        lent = self._grants.get(name)
        if lent is not None and lent.owner == owner:
            await super().renew(CountsEachAcquiring._lease(self, name, owner, lent.epoch), ttl=ttl)  # type: ignore[arg-type]
        return await super().acquire(name, owner, ttl=ttl)


@caught_by("renewed_lease_does_not_expire")
class RenewsNothing(MemoryLeaseStore):
    async def renew(self, lease: Lease, *, ttl: float) -> None:
        """Forgotten."""


@caught_by("expired_lease_can_be_renewed")
class LosesWhatExpires(MemoryLeaseStore):
    async def renew(self, lease: Lease, *, ttl: float) -> None:
        if not (await self.all())[lease.name].is_held:
            raise LeaseLost(name=lease.name, owner=lease.owner, epoch=lease.epoch)
        await super().renew(lease, ttl=ttl)


@caught_by("released_lease_can_be_acquired_at_once")
class ReleasesNothing(MemoryLeaseStore):
    async def release(self, lease: Lease) -> None:
        """Forgotten."""


@caught_by("released_lease_can_be_acquired_at_once")
class ForgetsWhatIsReleased(Careless):
    async def release(self, lease: Lease) -> None:
        self.forget(lease.name)


@caught_by("release_of_a_lost_lease_does_nothing")
class ReleasesWhatOthersHold(Careless):
    async def release(self, lease: Lease) -> None:
        self.forget(lease.name)


@caught_by("release_of_a_lost_lease_does_nothing")
class ComplainsAboutReleases(MemoryLeaseStore):
    async def release(self, lease: Lease) -> None:
        await super().renew(lease, ttl=1.0)
        await super().release(lease)


@caught_by("all_returns_every_state")
class TellsWhatIsHeldAlone(MemoryLeaseStore):
    async def all(self) -> Mapping[str, LeaseState]:
        return {name: state for name, state in (await super().all()).items() if state.is_held}


@caught_by("one_of_concurrent_owners_acquires")
class LooksAndThenLends(Careless):
    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        state = (await self.all()).get(name)
        if state is not None and state.is_held and state.owner != owner:
            return None
        # Others may look meanwhile.
        await checkpoint()
        if state is None or state.owner != owner:
            self.forget(name)
        return await super().acquire(name, owner, ttl=ttl)


@caught_by("cancelled_acquire_is_done_or_not")
class LendsNothingWhenCancelled(MemoryLeaseStore):
    acquiring = False

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        if self.acquiring:
            return None
        self.acquiring = True
        await checkpoint()
        self.acquiring = False
        return await super().acquire(name, owner, ttl=ttl)


@caught_by("invalid_lease_is_refused")
class ChecksNothing(MemoryLeaseStore):
    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        return await super().acquire(str(name) or "a", str(owner) or "me", ttl=1.0)


# Cursor stores.


@caught_by("fence_type_is_the_type_of_the_leases")
class DeclaresNoFenceType(MemoryCursorStore):
    fence_type: ClassVar[type[Lease] | None] = None


@caught_by("fence_type_is_the_type_of_the_leases")
class DeclaresAnotherFenceType(MemoryCursorStore):
    fence_type: ClassVar[type[Lease] | None] = type("AnotherLease", (Lease,), {})


@caught_by("owner_moves_the_cursor")
class WantsTheLeaseOfTheConsumer(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        if fence is not None and fence.name != name:
            raise LeaseLost(name=fence.name, owner=fence.owner, epoch=fence.epoch)
        await super().set(name, cursor, expected=expected, fence=fence)


class LooksAtEpochs(MemoryCursorStore):
    """Refuses a lease only once it has met a later one."""

    def __init__(self) -> None:
        super().__init__()
        self._epochs: dict[str, int] = {}

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        if fence is not None:
            if fence.epoch < self._epochs.get(fence.name, 0):
                raise LeaseLost(name=fence.name, owner=fence.owner, epoch=fence.epoch)
            self._epochs[fence.name] = fence.epoch
        await super().set(name, cursor, expected=expected)


caught_by("lost_lease_moves_nothing")(LooksAtEpochs)
caught_by("released_lease_moves_nothing")(LooksAtEpochs)


@caught_by("lost_lease_moves_nothing")
class FencesNoExpected(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        await super().set(name, cursor, expected=expected, fence=fence if expected is None else None)


@caught_by("first_cursor_is_fenced_too")
class FencesNoFirstCursor(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        await super().set(name, cursor, expected=expected, fence=fence if await self.get(name) else None)


@caught_by("expired_lease_still_moves_the_cursor")
class LosesWhatIsOld(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        if fence is not None and not (await fence.store.all())[fence.name].is_held:  # type: ignore[attr-defined]
            raise LeaseLost(name=fence.name, owner=fence.owner, epoch=fence.epoch)
        await super().set(name, cursor, expected=expected, fence=fence)


@caught_by("fenced_cursor_does_not_move_backwards")
class LetsHoldersMoveAnywhere(MemoryCursorStore):
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        if fence is not None:
            await self.rewind(name, "")
        await super().set(name, cursor, fence=fence)


@caught_by("lost_lease_does_not_affect_other_cursors")
class KeepsTheLastFence(MemoryCursorStore):
    fence: Lease | None = None

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        self.fence = self.fence or fence
        await super().set(name, cursor, expected=expected, fence=self.fence)
