"""A TCP proxy before the server, to cut and to stall its connections."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

import pytest_asyncio

from tests.fix_databases import Database

# To linger for no time: closing sends a reset. Otherwise it does so only if something is still to be read.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes TCP connections on to a database server, as long as it is told to.

    :param dsn: where to pass them on to, by TCP or unix socket, and the account and database of :attr:`dsn`
    """

    def __init__(self, dsn: str) -> None:
        self._upstream = urlsplit(dsn)
        self._listener: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._flow = asyncio.Event()
        self._flow.set()
        self._unanswered: bytes | None = None
        self.host = "127.0.0.1"
        self.port = 0
        self.answers_dropped = 0
        """How many answers nobody has heard, see :meth:`drop_answer_to`."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def dsn(self) -> str:
        """How to connect to the database through the proxy."""
        account = self._upstream.netloc.rpartition("@")[0]
        return f"{self._upstream.scheme}://{account}@{self.host}:{self.port}{self._upstream.path}"

    @property
    def connections(self) -> int:
        """How many connections are open through it now."""
        return len(self._connections)

    async def start(self) -> None:
        """Accept connections, at the same port after a stop."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, self.host, self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and cut the open ones: the server is gone."""
        if self._listener is not None:
            # What asyncio accepts in the very turn in which a listener is closed, it leaves open: so accept no more,
            # and let what was accepted become connections first, to be cut with the others.
            for listening in self._listener.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
            for _ in range(2):
                await asyncio.sleep(0)
            self._listener.close()
            self._listener = None
        await self.drop_connections()

    async def drop_connections(self) -> None:
        """Cut the open connections with a reset, as a killed server would; new ones are accepted."""
        dropped = list(self._connections)
        for connection in dropped:
            client = self._connections[connection]
            if not client.is_closing():
                client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.cancel()
        await asyncio.gather(*dropped, return_exceptions=True)

    def drop_answer_to(self, statement: bytes) -> None:
        """Cut the connection over which ``statement`` is sent next, when the server answers it: nobody hears that."""
        self._unanswered = statement

    def stall(self) -> None:
        """Pass nothing on from now, in either direction: the network is silent, no connection ends."""
        self._flow.clear()

    def strand(self) -> None:
        """Pass nothing on over the open connections, which never end; new ones work."""
        self._flow.clear()
        self._flow = asyncio.Event()
        self._flow.set()

    def resume(self) -> None:
        """Pass everything on again, what was held back first."""
        self._flow.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._listener is None:
            # Accepted by the kernel before the stop.
            writer.transport.abort()
            return
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections[connection] = writer
        connection.add_done_callback(self._connections.pop)
        # A close would first send what is buffered. Here, as a task that is cancelled before it began does nothing.
        connection.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await self._connect()
        except OSError:
            return
        awaited, flow = asyncio.Event(), self._flow

        def sent(data: bytes) -> None:
            if self._unanswered is not None and self._unanswered in data:
                self._unanswered = None
                awaited.set()

        def answered(data: bytes) -> None:
            if awaited.is_set():
                self.answers_dropped += 1
                writer.transport.abort()
                upstream_writer.transport.abort()

        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, upstream_writer, flow, sent))
                pumps.create_task(self._pump(upstream_reader, writer, flow, answered))
        finally:
            upstream_writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        options = parse_qs(self._upstream.query)
        if "unix_socket" in options:
            return await asyncio.open_unix_connection(options["unix_socket"][0])
        host = options.get("host", [unquote(self._upstream.hostname or "127.0.0.1")])[0]
        port = int(options.get("port", [self._upstream.port or 5432])[0])
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        flow: asyncio.Event,
        passing: Callable[[bytes], None],
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                passing(data)
                await flow.wait()
                writer.write(data)
                await writer.drain()
            writer.close()


@pytest_asyncio.fixture
async def proxy(database: Database) -> AsyncIterator[Proxy]:
    """A proxy before the test's database; for another server use :class:`Proxy` itself."""
    async with Proxy(database.dsn) as proxy:
        yield proxy
