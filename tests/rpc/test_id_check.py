"""The check of event ids accepts exactly those that may follow, whatever the lengths of numbers are."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reflex_aio import InvalidCursor
from reflex_aio.rpc.page_messages import IdCheck
from reflex_aio.rpc.protocol import MalformedMessage

# Around powers of ten and the ends of the range, where numbers change their lengths, and texts lose their order.
EDGES = [0, 1, 9, 10, 11, 99, 100, 101, 999, 1000, 2**63 - 2, 2**63 - 1, 2**63, 10**19]
NUMBERS = st.sampled_from(EDGES) | st.integers(0, 120)
IDS = NUMBERS.map(str) | st.sampled_from(["", "00", "01", "+1", "-1", " 1", "1\n", "1_0", "٣", "x", "\0"])


def accepted(check: IdCheck, ids: list[str], after: str, *, opaque: bool | None) -> bool:
    try:
        check.check(ids, after=after, opaque=opaque)
    except MalformedMessage:
        return False
    return True


def increase(ids: list[str], after: str) -> bool:
    numbers = [int(event_id) if re.fullmatch("[1-9][0-9]*", event_id) else -1 for event_id in ids]
    return all(
        number > before and number < 2**63
        for before, number in zip([int(after or 0), *numbers], numbers, strict=False)
    )


@given(
    st.lists(IDS, min_size=1, max_size=4)
    | st.lists(NUMBERS, min_size=1, unique=True).map(sorted).map(lambda n: [*map(str, n)]),
    NUMBERS.map(str) | st.sampled_from(["", "007"]),
)
@example(["10", "9"], "")
@example(["9", "10"], "8")
@example(["1", "2", "1"], "")
@example(["100", "99", "101"], "")
@example(["1000000", "100001", "20000000", "3000000"], "")
def test_integers_are_accepted_if_each_is_greater_than_the_one_before(ids: list[str], after: str) -> None:
    assert accepted(IdCheck(), ids, after, opaque=False) is increase(ids, after)


@given(st.lists(st.lists(IDS, min_size=1, max_size=3), max_size=4), IDS)
def test_opaque_ids_are_accepted_unless_they_are_empty_or_have_come_before(
    pages: list[list[str]], after: str
) -> None:
    check, seen = IdCheck(), [after]
    for ids in pages:
        fine = len({*seen, *ids}) == len(seen) + len(ids) and not {"", "\0"} & {*ids}
        assert accepted(check, ids, seen[-1], opaque=True) is fine
        # Of a page that is refused, no event is delivered: it may come again.
        if fine:
            seen += ids


@given(st.lists(IDS, min_size=1, max_size=4), IDS)
def test_undeclared_ids_are_integers_as_long_as_they_look_like_integers(ids: list[str], after: str) -> None:
    integers = all(re.fullmatch("[0-9]+", text) for text in (after or "0", ids[0]))
    assert accepted(IdCheck(), ids, after, opaque=None) is accepted(
        IdCheck(), ids, after, opaque=not integers
    )


def test_a_repetition_is_detected_for_the_last_ten_thousand_opaque_ids() -> None:
    check = IdCheck()
    for first in range(0, 30_000, 100):
        check.check([f"x{number}" for number in range(first, first + 100)], after="", opaque=True)
    assert not accepted(check, ["x20000"], "", opaque=True)
    # Memory is bounded.
    assert accepted(check, ["x19999"], "", opaque=True)


@pytest.mark.parametrize("after", ["x", "-1", "٣"])
def test_a_cursor_that_is_no_integer_does_not_precede_integers(after: str) -> None:
    with pytest.raises(InvalidCursor, match="accepted is an integer"):
        IdCheck().check(["1"], after=after, opaque=False)


@pytest.mark.parametrize("ids", [["5", "4"], ["x"], ["9" * 10_000], [str(2**63)], [""]])
def test_the_error_names_the_first_wrong_id(ids: list[str]) -> None:
    with pytest.raises(MalformedMessage, match="event id '"):
        IdCheck().check(ids, after="4", opaque=False)
