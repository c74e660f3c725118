"""A client trusts no server: whatever is sent, it repeats and reorders no event, and raises errors of its own."""

import asyncio
import re
import traceback
from collections.abc import AsyncIterator, Sequence
from math import ceil
from typing import Any

import grpc
import msgspec
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reflex_aio import Consumer, Event, ReflexError, RemoteError, Spec, StreamStopped, pb, run
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.rpc import RemoteSource
from reflex_aio.rpc.remote_source import _RESPONSE_TIMEOUT
from reflex_aio.rpc.streaming_call import _OVERHEAD, _READ_AHEAD
from tests.rpc.malicious import ANSWERS, ID_PAGES, Answer, MaliciousServer, message_of, metadata_of
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

# The server is made once for all examples of a test.
fuzzed = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

STOPPED = (grpc.StatusCode.UNAVAILABLE, "over", ())


@pytest_asyncio.fixture
async def server() -> AsyncIterator[tuple[MaliciousServer, grpc.aio.Channel]]:
    malicious = MaliciousServer()
    async with malicious.serving() as channel:
        yield malicious, channel


Fixture = tuple[MaliciousServer, grpc.aio.Channel]


@pytest.fixture(params=[True, False], ids=["pages", "single"])
def pages(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def read_all(
    source: RemoteSource, after: str, **options: Any
) -> tuple[list[str], str, Exception | None]:
    """Return the ids that are delivered up to an error or the end, the cursor then, and the error."""
    delivered: list[str] = []
    stream = source.stream(after, **options)
    error: Exception | None = None
    async with asyncio.timeout(_RESPONSE_TIMEOUT / 2):
        try:
            async for event in stream:
                delivered.append(event.id)  # noqa: PERF401
        except Exception as exc:
            error = exc
        await stream.aclose()
    return delivered, stream.cursor, error


def may_follow(event_id: str, last: str) -> bool:
    """Return whether an integer id may come after ``last``, by comparing integers."""
    return bool(re.fullmatch("[1-9][0-9]*", event_id)) and int(last or 0) < int(event_id) < 2**63


def deliverable(id_pages: Sequence[Sequence[str]], after: str, *, opaque: bool) -> tuple[list[str], bool]:
    """Return the ids of the pages before the first one that is refused, and whether one is."""
    delivered: list[str] = []
    for page in id_pages:
        good: list[str] = []
        for event_id in page:
            last = (after, *delivered, *good)[-1]
            if opaque:
                fine = event_id not in ("", after, *delivered, *good) and "\0" not in event_id
            else:
                fine = may_follow(event_id, last)
            if not fine:
                return delivered, True
            good.append(event_id)
        delivered += good
    return delivered, False


@fuzzed
@given(
    id_pages=ID_PAGES,
    after=st.sampled_from(["", "0", "5", "17"]),
    declared=st.sampled_from([None, False, True]),
)
@example(id_pages=[["5"], ["5"]], after="", declared=False)
@example(id_pages=[["9"], ["3"]], after="5", declared=None)
@example(id_pages=[["5", "5"]], after="", declared=True)
@example(id_pages=[["5"], ["17"]], after="17", declared=True)
@example(id_pages=[["9"], ["10"], ["99", "100"]], after="5", declared=False)
async def test_no_id_is_repeated_or_goes_backwards(
    server: Fixture, pages: bool, id_pages: list[list[str]], after: str, declared: bool | None
) -> None:
    malicious, channel = server
    malicious.answer = Answer(
        messages=[message for ids in id_pages for message in message_of(ids, pages=pages)],
        metadata=metadata_of(opaque=declared, cursor=after),
        status=STOPPED,
    )
    expected, refused = deliverable(
        id_pages if pages else [[event_id] for ids in id_pages for event_id in ids],
        after,
        opaque=bool(declared),
    )
    malicious.afters.clear()
    delivered, cursor, error = await read_all(RemoteSource(channel, pages=pages), after)
    # Single events that have arrived together are checked together.
    assert delivered == (expected if pages or not refused else expected[: len(delivered)])
    assert cursor == [after, *delivered][-1]
    if refused:
        assert isinstance(error, RemoteError), error
        assert error.code == "INTERNAL"
        assert "malformed" in str(error)
    else:
        assert str(error) == "UNAVAILABLE: over"
    assert malicious.afters == [after]


@pytest.mark.parametrize("declared", [False, True, None])
async def test_a_call_that_replaces_another_continues_after_the_last_event_and_is_checked(
    server: Fixture, pages: bool, declared: bool | None
) -> None:
    malicious, channel = server
    metadata = metadata_of(opaque=declared)
    # The cursor in the metadata of a later call is not believed either.
    replayed = Answer(
        [*message_of(["6", "7"], pages=pages)], metadata_of(opaque=declared, cursor="3"), STOPPED
    )
    malicious.answer = Answer([*message_of(["6", "7"], pages=pages)], metadata, STOPPED)
    async with RemoteSource(channel, pages=pages).stream("5") as stream:
        assert [(await anext(stream)).id for _ in range(2)] == ["6", "7"]
        with pytest.raises(ReflexError, match="over"):
            await anext(stream)
        malicious.answer = replayed
        for _ in range(2):
            with pytest.raises(RemoteError, match="malformed"):
                await anext(stream)
            assert stream.cursor == "7"
        malicious.answer = Answer([*message_of(["8"], pages=pages)], metadata, STOPPED)
        assert (await anext(stream)).id == "8"
    assert malicious.afters == ["5", "7", "7", "7"]


async def test_the_cursor_of_a_consumer_stays_where_it_is(server: Fixture, pages: bool) -> None:
    malicious, channel = server
    consumed: list[str] = []

    async def consume(event: Event) -> None:
        consumed.append(event.id)

    store = MemoryCursorStore({"c": "5"})
    spec = Spec(RemoteSource(channel, pages=pages), store, Consumer("c", consume))
    # Single events before a wrong one are delivered.
    for ids in (["4"], ["5"], [""], ["x"], *([["6", "6"], ["6", "x"]] if pages else [])):
        malicious.answer = Answer(message_of(ids, pages=pages), metadata_of(opaque=False), STOPPED)
        with pytest.raises(RemoteError):
            await run(spec)
    assert (consumed, await store.get("c")) == ([], "5")


@fuzzed
@given(
    answer=ANSWERS, after=st.sampled_from(["", "5"]), options=st.sampled_from(["", "from_head", "to_head"])
)
async def test_whatever_is_sent_the_error_is_ours_and_its_text_is_one_printable_line(
    server: Fixture, pages: bool, answer: Answer, after: str, options: str
) -> None:
    malicious, channel = server
    malicious.answer = answer
    source = RemoteSource(channel, pages=pages)
    delivered, cursor, error = await read_all(source, after, **({options: True} if options else {}))
    assert error is None or isinstance(error, ReflexError), repr(error)
    if error is None:
        assert options == "to_head"
    else:
        assert_presentable(error)
    assert len(set(delivered)) == len(delivered)
    if delivered or options != "from_head":
        assert cursor == [after, *delivered][-1]


@fuzzed
@given(answer=ANSWERS)
async def test_the_head_is_a_string_or_an_error_of_ours(server: Fixture, answer: Answer) -> None:
    malicious, channel = server
    malicious.answer = answer
    try:
        assert isinstance(await RemoteSource(channel).head(), str)
    except ReflexError as error:
        assert_presentable(error)


def assert_presentable(error: Exception) -> None:
    """Check what would be logged: the error, its attributes, and whatever a traceback shows with it."""
    assert str(error).isprintable(), str(error)
    assert len(str(error)) < 4000
    for value in vars(error).values():
        for text in value if isinstance(value, tuple) else [value]:
            assert text is None or text.isprintable()
    for line in "".join(traceback.format_exception(error)).splitlines():
        assert line.isprintable()
        # The peer's text itself is not among the errors that led to this one.
        assert "AioRpcError" not in line


async def test_metadata_that_are_no_utf_8_are_an_error_of_ours(server: Fixture, pages: bool) -> None:
    malicious, channel = server
    malicious.answer = Answer(metadata=[("reflex-cursor-bin", b"\xff")], status=STOPPED)
    delivered, _, error = await read_all(RemoteSource(channel, pages=pages), "")
    assert delivered == []
    assert isinstance(error, RemoteError)
    assert "malformed message: invalid initial metadata" in str(error)


async def test_garbage_in_place_of_a_head_is_an_error_of_ours(server: Fixture) -> None:
    malicious, channel = server
    malicious.answer = Answer(head=b"\xff")
    with pytest.raises(RemoteError, match="malformed message"):
        await RemoteSource(channel).head()


async def test_an_event_beyond_the_calendar_is_refused(server: Fixture) -> None:
    malicious, channel = server
    event = pb.Event(id="7", type=1, foreign_id="1", timestamp=pb.Timestamp(seconds=2**60))
    malicious.answer = Answer([event.SerializeToString()], metadata_of(opaque=False), STOPPED)
    _, cursor, error = await read_all(RemoteSource(channel, pages=False), "5")
    assert cursor == "5"
    assert "the time of event '7' is out of range" in str(error)


async def test_a_page_of_very_many_tiny_events_is_refused_before_it_is_decoded(server: Fixture) -> None:
    malicious, channel = server
    count = 500_000
    columns = msgspec.msgpack.encode(([""] * count, [0] * count, [""] * count, [0] * count, None, None))
    page = pb.Page(columns=columns).SerializeToString()
    malicious.answer = Answer([page], metadata_of(opaque=True), STOPPED)
    _, _, error = await read_all(RemoteSource(channel), "5")
    assert "length <= 100000" in str(error)


async def test_a_call_closed_in_silence_is_not_the_end_of_the_stream(server: Fixture, pages: bool) -> None:
    malicious, channel = server
    malicious.answer = Answer(message_of(["6"], pages=pages), metadata_of(opaque=False))
    delivered, cursor, error = await read_all(RemoteSource(channel, pages=pages), "5", to_head=True)
    assert (delivered, cursor) == (["6"], "6")
    assert isinstance(error, StreamStopped)


async def test_messages_that_are_not_taken_are_bounded_even_if_they_are_empty(server: Fixture) -> None:
    malicious, channel = server
    malicious.answer = Answer([b""] * 20_000, metadata_of(opaque=False))
    async with RemoteSource(channel).stream("5") as stream:
        receiver = stream._receiver  # type: ignore[attr-defined]
        await eventually(lambda: receiver._size >= _READ_AHEAD, "the buffer to be full")
        assert len(receiver._messages) == ceil(_READ_AHEAD / _OVERHEAD)
        assert receiver._watch.paused
        # Empty pages are no events, and no end.
        with pytest.raises(StreamStopped, match="without a reason"):
            await anext(stream)
