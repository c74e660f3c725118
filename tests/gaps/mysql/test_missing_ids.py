"""Which ids are taken, by what a peek and a read after it have seen; and how old a head is."""

from hypothesis import given
from hypothesis import strategies as st

from reflex_aio.sql.events.mysql.gaps import AgedHead, missing_ids

IDS = st.sets(st.integers(1, 40))


@given(
    committed=IDS,
    in_flight=IDS,
    between=IDS,
    gone=IDS,
    first=st.integers(1, 20),
    last=st.integers(20, 40),
    limit=st.integers(1, 50),
    most=st.integers(1, 50),
)
def test_ids_are_missing_only_up_to_the_first_in_flight_and_as_far_as_was_looked(
    committed: set[int],
    in_flight: set[int],
    between: set[int],
    gone: set[int],
    first: int,
    last: int,
    limit: int,
    most: int,
) -> None:
    in_flight -= committed
    # Some in flight commit between the two reads, some are rolled back, and others come to be there.
    visible = (committed | (in_flight & between)) | (between - gone)
    rows = [
        sorted(i for i in seen if first <= i <= last)[:limit] for seen in (committed | in_flight, visible)
    ]
    found = missing_ids(first, last, uncommitted=rows[0], committed=rows[1], limit=limit, most=most)

    assert found.end <= last
    looked_at = list(range(first, found.end + 1))
    assert list(found.ids) == [i for i in looked_at if i not in visible][:most]
    assert found.total == len([i for i in looked_at if i not in visible])
    # A row that was uncommitted at the first read, and is not committed at the second, keeps all ids from there on.
    assert not [i for i in looked_at if i in in_flight and i not in visible]
    if found.in_flight is None:
        assert found.end == last or len(rows[0]) >= limit or len(rows[1]) >= limit
    else:
        assert found.in_flight == found.end + 1
        assert found.in_flight in in_flight


@given(
    st.lists(st.tuples(st.floats(0, 0.05), st.integers(1, 100)), min_size=1),
    st.floats(0, 1),
    st.integers(0, 100),
)
def test_the_aged_head_was_seen_long_enough_ago_and_moves_on(
    sights: list[tuple[float, int]], later: float, position: int
) -> None:
    heads, now, seen = AgedHead(0.1), 0.0, []
    for pause, event_id in sights:
        now += pause
        heads.saw(event_id, now)
        seen.append((now, event_id))
        old = [each for at, each in seen if now - at >= 0.1 - 1e-9]
        assert heads.at(now) <= max(old, default=0)
    now += later
    due = heads.due(position, now)
    if due is not None:
        assert heads.at(now + due + 1e-9) > position
    # However many gaps there are, what is seen all the time is passed after a while.
    for _ in range(30):
        now += 0.01
        heads.saw(200, now)
    assert heads.at(now) == 200
    heads.forget()
    assert heads.at(now) == 0
    assert heads.due(0, now) is None
