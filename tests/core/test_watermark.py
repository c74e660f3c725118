"""The watermark is where a list says it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflex_aio.running.manual_commit import Watermark

# What is done: begin an event, pass one over, or finish one of those begun, alone or with all before it.
STEPS = st.lists(
    st.one_of(
        st.just("begin"),
        st.just("pass"),
        st.tuples(st.sampled_from(["finish", "through"]), st.floats(0, 1, exclude_max=True)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(STEPS)
def test_cursor_is_after_the_finished_beginning(steps: list[str | tuple[str, float]]) -> None:
    watermark = Watermark()
    done: list[bool] = []
    events: list[int] = []
    for step in steps:
        if step == "begin":
            assert watermark.begin(str(len(done) + 1)) == len(events)
            events.append(len(done))
            done.append(False)
        elif step == "pass":
            watermark.skip(str(len(done) + 1))
            done.append(True)
        elif events:
            ticket = int(step[1] * len(events))
            if step[0] == "finish":
                watermark.finish(ticket)
                done[events[ticket]] = True
            else:
                watermark.finish_through(ticket)
                done[: events[ticket] + 1] = [True] * (events[ticket] + 1)
        finished = done.index(False) if False in done else len(done)
        assert watermark.cursor == (str(finished) if finished else "")
        assert len(watermark) == len([place for place in events if place >= finished])


def test_events_passed_over_take_no_memory() -> None:
    watermark = Watermark()
    ticket = watermark.begin("1")
    for number in range(2, 1000):
        watermark.skip(str(number))
    assert len(watermark) == 1
    watermark.finish(ticket)
    assert watermark.cursor == "999"


@pytest.mark.parametrize("ticket", [-1, 1])
def test_ticket_that_was_not_given_out_is_refused(ticket: int) -> None:
    watermark = Watermark()
    watermark.begin("1")
    with pytest.raises(ValueError, match=f"ticket {ticket} does not exist"):
        watermark.finish(ticket)
    with pytest.raises(ValueError, match=f"ticket {ticket} does not exist"):
        watermark.finish_through(ticket)
