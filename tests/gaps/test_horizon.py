"""The bookkeeping that resolves ids, fed with made-up scans and with a model of writers."""

from hypothesis import given, settings
from hypothesis import strategies as st

from reflex_aio.sql.events.postgres.horizon import Holder, Horizon


def _holders(*keys: str, prepared: tuple[str, ...] = ()) -> list[Holder]:
    return [Holder(key, 1) for key in keys] + [Holder(key, None) for key in prepared]


def test_without_holders_everything_visible_is_resolved() -> None:
    horizon = Horizon()
    horizon.scanned(7, [])
    assert horizon.resolved == 7


def test_holders_of_the_first_scan_may_own_any_id() -> None:
    horizon = Horizon()
    horizon.scanned(7, _holders("1/1"))
    assert horizon.resolved == 0
    horizon.scanned(9, _holders("1/1"))
    assert horizon.resolved == 0
    horizon.scanned(9, [])
    assert horizon.resolved == 9


def test_a_scan_reports_whether_anything_has_changed() -> None:
    horizon = Horizon()
    # Equal numbers are different objects, as they are when they come from a database.
    seven, eight = "7000", "8000"
    assert horizon.scanned(int(seven), [])
    assert not horizon.scanned(int(seven), [])
    assert horizon.scanned(int(eight), [])
    assert horizon.scanned(int(eight), _holders("1/1"))
    assert not horizon.scanned(int(eight), _holders("1/1"))
    assert horizon.scanned(int(eight), _holders("2/1"))
    assert horizon.scanned(int(eight), [])
    assert not horizon.scanned(int(seven), [])


def test_a_newcomer_owns_ids_above_the_top_of_the_scan_before() -> None:
    horizon = Horizon()
    horizon.scanned(5, [])
    horizon.scanned(9, _holders("2/1"))
    assert horizon.resolved == 5


def test_a_holder_keeps_its_bound_while_newcomers_come_and_go() -> None:
    horizon = Horizon()
    horizon.scanned(5, [])
    horizon.scanned(9, _holders("2/1"))
    horizon.scanned(12, _holders("2/1", "3/1"))
    assert horizon.resolved == 5
    horizon.scanned(20, _holders("3/1"))
    assert horizon.resolved == 9
    horizon.scanned(20, [])
    assert horizon.resolved == 20


def test_a_known_holder_that_is_prepared_keeps_its_bound() -> None:
    horizon = Horizon()
    horizon.scanned(5, [])
    horizon.scanned(9, _holders("2/1"))
    horizon.scanned(15, _holders(prepared=("2/1",)))
    assert horizon.resolved == 5


def test_a_prepared_newcomer_may_be_a_holder_that_the_scan_has_just_lost() -> None:
    """PREPARE in the middle of a scan: the fast path's slots were read before, the main table after."""
    horizon = Horizon()
    horizon.scanned(5, [])
    horizon.scanned(9, _holders("2/1"))
    horizon.scanned(15, _holders(prepared=("-1/77",)))
    assert horizon.resolved == 5


def test_a_prepared_newcomer_may_be_any_of_the_holders_of_before() -> None:
    horizon = Horizon()
    horizon.scanned(5, [])
    horizon.scanned(9, _holders("2/1"))
    horizon.scanned(12, _holders("2/1", "3/1"))
    horizon.scanned(30, _holders("3/1", prepared=("-1/77",)))
    assert horizon.resolved == 5


def test_a_prepared_newcomer_without_earlier_holders_is_like_any_newcomer() -> None:
    horizon = Horizon()
    horizon.scanned(5, [])
    horizon.scanned(9, _holders(prepared=("-1/77",)))
    assert horizon.resolved == 5


def test_after_a_crash_a_new_writer_may_have_the_key_of_a_prepared_one() -> None:
    """A crash renames prepared holders; who meets an error starts anew, and then any of them may own anything."""
    horizon = Horizon()
    horizon.scanned(5, [])
    horizon.scanned(9, _holders(prepared=("3/7",)))
    horizon = Horizon()
    # "3/7" is a writer of today, and "-1/77" what "3/7" was.
    horizon.scanned(40, _holders("3/7", prepared=("-1/77",)))
    assert horizon.resolved == 0


def test_a_top_that_falls_leaves_what_was_drawn_drawn() -> None:
    horizon = Horizon()
    horizon.scanned(9, [])
    horizon.scanned(4, _holders("2/1"))
    assert horizon.resolved == 9
    horizon.scanned(4, [])
    assert horizon.resolved == 9


def test_the_moment_of_commit_is_a_holder_more() -> None:
    horizon = Horizon()
    horizon.scanned(5, [])
    horizon.scanned(9, _holders("2/0"))
    horizon.scanned(9, [])
    assert horizon.resolved == 9


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [*["draw", "commit", "scan"] * 4, "begin scan", "list", "roll back", "prepare", "error"]
        ),
        st.integers(0, 2),
    ),
    min_size=10,
    max_size=80,
)


@given(_STEPS)
@settings(max_examples=1000, deadline=None)
def test_no_id_that_will_be_committed_is_ever_resolved_before_it_is_visible(
    steps: list[tuple[str, int]],
) -> None:
    """Writers draw, commit, roll back and prepare at any point of a scan, which first reads the top, then the locks."""
    drawn, keys = 0, 0
    visible: set[int] = set()
    # By slot: key, whether prepared, and the ids that the transaction has drawn.
    open_: dict[int, tuple[str, bool, list[int]]] = {}
    horizon, top, passed = Horizon(), None, 0
    for step, slot in steps:
        if step == "draw" and (slot not in open_ or not open_[slot][1]):
            drawn += 1
            if slot not in open_:
                keys += 1
            open_.setdefault(slot, (f"{slot}/{keys}", False, []))[2].append(drawn)
        elif step == "commit" and slot in open_:
            committed = open_.pop(slot)[2]
            assert min(committed) > passed, f"{committed} passed at {passed}, and committed only now"
            visible.update(committed)
        elif step == "roll back" and slot in open_:
            del open_[slot]
        elif step == "prepare" and slot in open_:
            open_[slot] = (open_[slot][0], True, open_[slot][2])
        elif step == "error":
            horizon, top = Horizon(), None
        if step in ("begin scan", "scan"):
            top = max(visible, default=0)
        if step in ("list", "scan") and top is not None:
            horizon.scanned(
                top, [Holder(key, None if prepared else 1) for key, prepared, _ in open_.values()]
            )
            # What a statement after this scan may pass.
            passed, top = max(passed, horizon.resolved), None
