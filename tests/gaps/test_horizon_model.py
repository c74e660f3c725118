"""The bookkeeping against a model of PostgreSQL: transactions, the lock table, and scans that take their time.

A scan reads the greatest visible id, then the slots of each backend for quick locks, one after the other, then the main
lock table at once. Between any two of these steps transactions draw, move their locks, prepare, end, and the server
crashes.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reflex_aio.sql.events.postgres.horizon import Holder, Horizon

BACKENDS = range(4)
RARELY = st.integers(0, 4).map(lambda choice: choice == 4)


@dataclass
class Transaction:
    key: str
    began: int
    """What the bookkeeping had seen resolved-or-owned when it took the lock: it draws ids above that."""
    ids: list[int] = field(default_factory=list)
    in_main_table: bool = False
    prepared: bool = False
    visible: bool = False
    """Committed, in the moment in which it still holds the lock."""

    @property
    def holder(self) -> Holder:
        if self.prepared:
            return Holder(self.key, None)
        return Holder(f"{self.key.partition('/')[0]}/0" if self.visible else self.key, 1)


@dataclass
class Scan:
    top: int
    unread: list[int]
    listed: list[Holder] = field(default_factory=list)


class BoundsOfAModel(RuleBasedStateMachine):
    """Neither passes an id that can still appear, nor waits for one that a scan has shown to be lost."""

    def __init__(self) -> None:
        super().__init__()
        self.horizon = Horizon()
        self.drawn = 0
        self.committed: set[int] = set()
        self.deleted: set[int] = set()
        self.backends: dict[int, Transaction] = {}
        self.prepared: list[Transaction] = []
        self.began_on = dict.fromkeys(BACKENDS, 0)
        self.scan: Scan | None = None
        self.highest = 0
        self.seen = 0
        # After a PREPARE, a crash, or a look at the moment of commit, bounds may be lower than need be.
        self.exact = True

    @property
    def top(self) -> int:
        return max(self.committed - self.deleted, default=0)

    # What transactions do.

    @rule(backend=st.sampled_from(BACKENDS))
    def draw(self, backend: int) -> None:
        transaction = self.backends.get(backend)
        if transaction is None:
            self.began_on[backend] += 1
            key = f"{backend}/{self.began_on[backend]}"
            transaction = self.backends[backend] = Transaction(key, self.highest)
        if not transaction.visible:
            self.drawn += 1
            transaction.ids.append(self.drawn)

    @rule(backend=st.sampled_from(BACKENDS))
    def move_to_main_table(self, backend: int) -> None:
        if backend in self.backends:
            self.backends[backend].in_main_table = True

    @rule(backend=st.sampled_from(BACKENDS))
    def prepare(self, backend: int) -> None:
        transaction = self.backends.get(backend)
        if transaction is not None and not transaction.visible:
            del self.backends[backend]
            transaction.in_main_table = transaction.prepared = True
            self.prepared.append(transaction)
            self.exact = False

    @rule(backend=st.sampled_from(BACKENDS))
    def commit(self, backend: int) -> None:
        if backend in self.backends:
            self.backends[backend].visible = True
            self.committed.update(self.backends[backend].ids)

    @rule(backend=st.sampled_from(BACKENDS))
    def let_go(self, backend: int) -> None:
        """End: after a commit, or else by a rollback."""
        self.backends.pop(backend, None)

    @precondition(lambda self: self.prepared)
    @rule(choice=st.integers(0, 3), commits=st.booleans())
    def end_prepared(self, choice: int, commits: bool) -> None:
        transaction = self.prepared.pop(choice % len(self.prepared))
        if commits:
            self.committed.update(transaction.ids)

    @rule()
    def write(self) -> None:
        """Draw, insert and commit in one go."""
        self.drawn += 1
        self.committed.add(self.drawn)

    @rule()
    def delete_the_newest_row(self) -> None:
        self.deleted.add(self.top)

    @rule(luck=RARELY)
    def crash(self, luck: bool) -> None:
        """Prepared transactions get other keys, new ones the keys of old ones; the reader may not notice."""
        if not luck:
            return
        self.backends.clear()
        self.began_on = dict.fromkeys(BACKENDS, 0)
        for transaction in self.prepared:
            transaction.key = f"-1/{transaction.ids[0]}"
        self.scan = None
        self.exact = False

    # What the reader does.

    @rule()
    def see_the_head(self) -> None:
        self.seen = max(self.seen, self.top)

    @rule(luck=RARELY)
    def start_anew(self, luck: bool) -> None:
        if not luck:
            return
        self.horizon = Horizon()
        self.highest = 0
        for transaction in self.backends.values():
            transaction.began = 0

    @precondition(lambda self: self.scan is None)
    @rule(order=st.permutations(BACKENDS))
    def begin_scan(self, order: list[int]) -> None:
        self.scan = Scan(max(self.top, self.seen), order)

    @precondition(lambda self: self.scan is not None and self.scan.unread)
    @rule()
    def read_a_backend(self) -> None:
        assert self.scan
        transaction = self.backends.get(self.scan.unread.pop())
        if transaction is not None and not transaction.in_main_table:
            self.scan.listed.append(transaction.holder)

    @precondition(lambda self: self.scan is not None and not self.scan.unread)
    @rule()
    def end_scan(self) -> None:
        assert self.scan
        scan, self.scan = self.scan, None
        moved = [each for each in self.backends.values() if each.in_main_table]
        scan.listed += [each.holder for each in (*moved, *self.prepared)]
        self.horizon.scanned(scan.top, scan.listed)
        self.highest = max(self.highest, scan.top)
        if any(holder.key.endswith("/0") for holder in scan.listed):
            self.exact = False
        if not scan.listed:
            assert self.horizon.resolved == self.highest, "there is no holder: all is resolved"
        elif self.exact:
            listed = {holder.key for holder in scan.listed}
            began = [each.began for each in self.backends.values() if each.key in listed]
            if len(began) == len(listed):
                assert self.horizon.resolved >= min(began), (
                    "a holder owns only ids above those of before it began"
                )

    @rule()
    def scan_now(self) -> None:
        self.finish_scan()

    @rule()
    def write_and_scan(self) -> None:
        self.write()
        self.finish_scan()

    def finish_scan(self) -> None:
        if self.scan is None:
            self.begin_scan(list(BACKENDS))
        while self.scan and self.scan.unread:
            self.read_a_backend()
        self.end_scan()

    @invariant()
    def nothing_is_resolved_that_can_still_appear(self) -> None:
        open_ = (*(each for each in self.backends.values() if not each.visible), *self.prepared)
        for transaction in open_:
            assert min(transaction.ids) > self.horizon.resolved, f"{transaction} is passed"
        assert self.horizon.resolved <= self.drawn, "ids still to be drawn are passed"


BoundsOfAModel.TestCase.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
test_bounds_hold_in_every_history = BoundsOfAModel.TestCase
