"""A server and a client that send whatever a test wants, and the strategies that make it up."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from hypothesis import strategies as st

from reflex_aio import Event, pb
from reflex_aio.rpc.page_messages import encode_pages
from reflex_aio.rpc.protocol import CURSOR_KEY, HEARTBEAT_KEY, IDS_KEY, event_to_message
from tests.rpc.serving import started

Context = grpc.aio.ServicerContext[bytes, bytes]
Pairs = Sequence[tuple[str, str | bytes]]

CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@dataclass
class Answer:
    """How each call is answered.

    :param metadata: the initial metadata; ``None`` to send none before the first message
    :param status: the status at the end, with its text and trailing metadata; ``None`` for OK
    :param silent: never end, but read what the client sends
    """

    messages: Sequence[bytes] = ()
    metadata: Pairs | None = None
    status: tuple[grpc.StatusCode, str, Pairs] | None = None
    head: bytes = b""
    silent: bool = False


@dataclass
class MaliciousServer:
    """Answers all methods with :attr:`answer`.

    :ivar afters: the cursors of the requests for streams
    :ivar further: the messages after the request that a silent server has read
    """

    answer: Answer = field(default_factory=Answer)
    afters: list[str] = field(default_factory=list)
    further: list[Any] = field(default_factory=list)

    async def stream(self, request: bytes, context: Context) -> None:
        self.afters.append(pb.StreamRequest.FromString(request).after)
        await self._respond(context)

    async def stream_pages(self, requests: object, context: Context) -> None:
        request: Any = await context.read()
        self.afters.append(pb.StreamPagesRequest.FromString(request).request.after)
        await self._respond(context)

    async def head(self, request: bytes, context: Context) -> bytes:
        await self._end(context)
        return self.answer.head

    async def _respond(self, context: Context) -> None:
        answer = self.answer
        if answer.metadata is not None:
            await context.send_initial_metadata(tuple(answer.metadata))
        for message in answer.messages:
            await context.write(message)
        if answer.silent:
            while grpc.aio.EOF not in self.further:
                self.further.append(await context.read())
            await asyncio.Event().wait()
        await self._end(context)

    async def _end(self, context: Context) -> None:
        if self.answer.status is not None:
            code, text, trailing = self.answer.status
            await context.abort(code, text, tuple(trailing))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[grpc.aio.Channel]:
        server = grpc.aio.server()
        methods: dict[str, dict[str, Any]] = {
            "reflexpb.Reflex": {"Stream": grpc.unary_stream_rpc_method_handler(self.stream)},
            "reflexaio.v1.ReflexPages": {
                "StreamPages": grpc.stream_stream_rpc_method_handler(self.stream_pages),
                "Head": grpc.unary_unary_rpc_method_handler(self.head),
            },
        }
        for service, handlers in methods.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        async with started(server) as target, grpc.aio.insecure_channel(target) as channel:
            yield channel


def message_of(ids: Sequence[str], *, pages: bool) -> list[bytes]:
    """Return events with these ids as one page, or as messages of one event each."""
    events = [Event(event_id, 1, "1", 1) for event_id in ids]
    if pages:
        return list(encode_pages(events, max_events=1000, max_bytes=1 << 20)) or [b""]
    return [event_to_message(event, pb.Event).SerializeToString() for event in events]


def metadata_of(*, opaque: bool | None, cursor: str = "") -> Pairs:
    """Return initial metadata as our server sends them, or would if it did not declare its ids (``None``)."""
    pairs: list[tuple[str, str | bytes]] = [(CURSOR_KEY, cursor.encode())]
    if opaque is not None:
        pairs.append((IDS_KEY, "opaque" if opaque else "integer"))
    return pairs


TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)

# Valid ids are likely enough that whole pages of them come about, and so are near misses.
IDS = st.integers(0, 40).map(str) | st.sampled_from(
    [
        "",
        "0",
        "007",
        "+7",
        "-7",
        " 7",
        "7 ",
        "1_0",
        "٣",
        "x",
        "\0",
        "7\n",
        str(2**63 - 1),
        str(2**63),
        "9" * 50,
    ]
)
INCREASING = st.lists(st.integers(1, 10**18), min_size=1, max_size=6, unique=True).map(
    lambda numbers: [str(number) for number in sorted(numbers)]
)
ID_PAGES = st.lists(INCREASING | st.lists(IDS | TEXTS, max_size=4), max_size=4)

_DETAILS = st.binary(max_size=30) | st.builds(
    lambda kind, type_url, value: pb.Status(
        code=1, message="m", details=[pb.Any(type_url=type_url, value=kind(value))]
    ).SerializeToString(),
    st.sampled_from(
        [lambda value: value, lambda value: pb.WrappedError(code="ERR_82d0368b5478d378").SerializeToString()]
    ),
    st.sampled_from(
        ["type.googleapis.com/reflexaio.v1.ErrorDetail", "type.googleapis.com/jettisonpb.WrappedError"]
    ),
    st.binary(max_size=20)
    | st.builds(
        lambda name, values: pb.ErrorDetail(type=name, attributes=values).SerializeToString(),
        st.sampled_from(
            [
                "CursorAhead",
                "InvalidCursor",
                "SchemaError",
                "TableReplaced",
                "TableRefused",
                "KeyError",
                "__class__",
            ]
        ),
        st.lists(TEXTS, max_size=4),
    ),
)
STATUSES = st.none() | st.tuples(
    st.sampled_from(CODES),
    TEXTS | st.just("\x1b[31m" + "line\r\n" * 300),
    _DETAILS.map(lambda details: (("grpc-status-details-bin", details),)) | st.just(()),
)
METADATA = st.none() | st.lists(
    st.tuples(st.just(CURSOR_KEY), st.binary(max_size=8) | TEXTS.map(str.encode))
    | st.tuples(st.just(IDS_KEY), st.sampled_from(["opaque", "integer", "", "x"]))
    | st.tuples(st.just(HEARTBEAT_KEY), st.sampled_from(["10000", "0", "-1", "x", "9" * 30, "1e3"])),
    max_size=3,
)
MESSAGES = st.lists(
    st.binary(max_size=30) | ID_PAGES.filter(bool).map(lambda pages: message_of(pages[0], pages=True)[0]),
    max_size=4,
)
ANSWERS = st.builds(
    Answer,
    messages=MESSAGES,
    metadata=METADATA,
    status=STATUSES,
    head=st.binary(max_size=20) | TEXTS.map(lambda text: pb.HeadResponse(id=text).SerializeToString()),
)
