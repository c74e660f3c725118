"""Which beginning of a page may be delivered, by what was resolved and by contiguity."""

from hypothesis import given
from hypothesis import strategies as st

from reflex_aio.sql.events.loader import safe_prefix

ids = st.integers(1, 30)


@given(ids=st.sets(ids), position=st.integers(0, 30), resolved=st.integers(0, 30))
def test_the_prefix_passes_no_id_that_may_still_appear_and_ends_only_before_one(
    ids: set[int], position: int, resolved: int
) -> None:
    page = sorted(event_id for event_id in ids if event_id > position)
    count, end = safe_prefix(page, position, resolved)

    assert end >= position
    assert page[:count] == [event_id for event_id in page if event_id <= end]
    assert not set(range(max(position, resolved) + 1, end + 1)) - set(page)
    if count < len(page):
        assert page[count] > max(resolved, end + 1)


@given(
    committed=st.sets(ids, min_size=1),
    in_flight=st.sets(ids, min_size=1),
    resolved=st.integers(0, 30),
    size=st.integers(1, 5),
)
def test_pages_of_any_size_come_to_the_first_id_in_flight_and_no_further(
    committed: set[int], in_flight: set[int], resolved: int, size: int
) -> None:
    resolved = min(resolved, min(in_flight) - 1, max(committed))
    visible = sorted(committed - in_flight)
    position, delivered = 0, []
    while True:
        page = [event_id for event_id in visible if event_id > position][:size]
        # A full page may end below what is resolved: nothing is known of the ids behind it.
        known = min(resolved, page[-1]) if len(page) == size else resolved
        count, end = safe_prefix(page, position, known)
        delivered += page[:count]
        if end == position:
            break
        position = end
    expected = [event_id for event_id in visible if event_id <= resolved]
    following = resolved + 1
    while following in visible:
        expected.append(following)
        following += 1
    assert delivered == expected
