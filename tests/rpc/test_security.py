"""TLS and metadata are those of gRPC, and are passed through."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import grpc
import pytest
import trustme

from reflex_aio import ConnectionLost, RemoteError
from reflex_aio.rpc import RemoteSource, StreamServer
from tests.rpc.serving import ids, some_events, take

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=[True, False], ids=["pages", "single"])
def pages(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Door(grpc.aio.ServerInterceptor):
    """Accepts calls with the right password, and records all passwords."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.heard: list[object] = []

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        word = dict(details.invocation_metadata).get("authorization")
        self.heard.append(word)
        if word == self.word:
            return await continuation(details)

        async def refuse(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

        kind = (
            grpc.unary_unary_rpc_method_handler
            if details.method.endswith("/Head")
            else grpc.unary_stream_rpc_method_handler
        )
        return kind(refuse)


@asynccontextmanager
async def secure_server(
    authority: trustme.CA, *interceptors: grpc.aio.ServerInterceptor, mutual: bool = False
) -> AsyncIterator[str]:
    certificate = authority.issue_cert("localhost")
    credentials = grpc.ssl_server_credentials(
        [(certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())],
        root_certificates=authority.cert_pem.bytes() if mutual else None,
        require_client_auth=mutual,
    )
    server = grpc.aio.server(interceptors=interceptors)
    StreamServer(await some_events(3)).add_to(server)
    port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    yield f"localhost:{port}"
    await server.stop(None)


def trusting(authority: trustme.CA) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(authority.cert_pem.bytes())


async def test_events_come_over_tls(pages: bool) -> None:
    authority = trustme.CA()
    async with (
        secure_server(authority) as target,
        grpc.aio.secure_channel(target, trusting(authority)) as channel,
        RemoteSource(channel, pages=pages).stream(to_head=True) as stream,
    ):
        assert ids([event async for event in stream]) == [1, 2, 3]


async def test_a_connection_to_an_untrusted_server_is_refused(pages: bool) -> None:
    async with (
        secure_server(trustme.CA()) as target,
        grpc.aio.secure_channel(target, trusting(trustme.CA())) as channel,
    ):
        with pytest.raises(ConnectionLost):
            async with RemoteSource(channel, pages=pages).stream() as stream:
                await anext(stream)


async def test_client_certificates_are_supported() -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("client")
    known = grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(),
        certificate.private_key_pem.bytes(),
        certificate.cert_chain_pems[0].bytes(),
    )
    async with secure_server(authority, mutual=True) as target:
        async with (
            grpc.aio.secure_channel(target, known) as channel,
            RemoteSource(channel).stream() as stream,
        ):
            assert ids(await take(stream, 3)) == [1, 2, 3]
        async with grpc.aio.secure_channel(target, trusting(authority)) as channel:
            with pytest.raises(ConnectionLost):
                await RemoteSource(channel).head()


async def test_credentials_of_the_channel_are_sent_with_every_call(pages: bool) -> None:
    authority, door = trustme.CA(), Door("Bearer open-sesame")
    credentials = grpc.composite_channel_credentials(
        trusting(authority), grpc.access_token_call_credentials("open-sesame")
    )
    async with (
        secure_server(authority, door) as target,
        grpc.aio.secure_channel(target, credentials) as channel,
        RemoteSource(channel, pages=pages).stream() as stream,
    ):
        assert ids(await take(stream, 3)) == [1, 2, 3]


async def test_metadata_are_sent_with_every_call(pages: bool) -> None:
    authority, door = trustme.CA(), Door("open-sesame")
    async with (
        secure_server(authority, door) as target,
        grpc.aio.secure_channel(target, trusting(authority)) as channel,
    ):
        source = RemoteSource(channel, pages=pages, metadata=[("authorization", "open-sesame")])
        assert await source.head() == "3"
        async with source.stream() as stream:
            assert ids(await take(stream, 3)) == [1, 2, 3]
    assert set(door.heard) == {"open-sesame"}


async def test_a_metadata_function_is_called_for_each_call(pages: bool) -> None:
    authority, door, numbers = trustme.CA(), Door("word 1"), count(1)

    async def metadata() -> list[tuple[str, str]]:
        return [("authorization", f"word {next(numbers)}")]

    async with (
        secure_server(authority, door) as target,
        grpc.aio.secure_channel(target, trusting(authority)) as channel,
    ):
        source = RemoteSource(channel, pages=pages, metadata=metadata)
        async with source.stream() as stream:
            assert ids(await take(stream, 3)) == [1, 2, 3]
        door.word = "word 2"
        async with source.stream() as stream:
            assert ids(await take(stream, 3)) == [1, 2, 3]
    assert door.heard == ["word 1", "word 2"]


async def test_an_unauthenticated_client_receives_the_reason(pages: bool) -> None:
    authority, door = trustme.CA(), Door("open-sesame")
    async with (
        secure_server(authority, door) as target,
        grpc.aio.secure_channel(target, trusting(authority)) as channel,
    ):
        source = RemoteSource(channel, pages=pages, metadata=[("authorization", "open-barley")])
        with pytest.raises(RemoteError, match="who are you") as refused:
            async with source.stream() as stream:
                await anext(stream)
        assert refused.value.code == "UNAUTHENTICATED"
        with pytest.raises(RemoteError, match="who are you"):
            await source.head()


async def test_an_error_of_the_metadata_function_is_raised_to_the_caller(pages: bool) -> None:
    async def metadata() -> list[tuple[str, str]]:
        raise LookupError("no token")

    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        source = RemoteSource(channel, pages=pages, metadata=metadata)
        with pytest.raises(LookupError):
            async with source.stream() as stream:
                await anext(stream)
        with pytest.raises(LookupError):
            await source.head()
