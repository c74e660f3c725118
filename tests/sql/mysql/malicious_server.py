"""A server that speaks MySQL's protocol, and answers a query by asking the client for one of its files.

Source of the packets: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_local_infile_request.html
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

# CONNECT_WITH_DB, LOCAL_FILES, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH
_CAPABILITIES = 0x08 | 0x80 | 0x200 | 0x2000 | 0x8000 | 0x80000
_GREETING = (
    b"\x0a8.0.30\0"
    + (1).to_bytes(4, "little")
    + b"12345678\0"
    + (_CAPABILITIES & 0xFFFF).to_bytes(2, "little")
    + b"\x2d\x02\x00"
    + (_CAPABILITIES >> 16).to_bytes(2, "little")
    + bytes([21])
    + bytes(10)
    + b"123456789012\0mysql_native_password\0"
)
_OK = b"\0\0\0\x02\0\0\0"
_QUERY, _FILE_REQUEST = b"\x03", b"\xfb"


@dataclass
class MaliciousServer:
    """The server's address, and what clients have sent it of the file."""

    port: int
    received: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def malicious_server(file: Path, *, on: bytes) -> AsyncIterator[MaliciousServer]:
    """Serve until the end of the context. Queries that contain ``on`` are answered by a request for ``file``."""

    async def receive(reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = await reader.readexactly(4)
        return head[3], await reader.readexactly(int.from_bytes(head[:3], "little"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def send(number: int, packet: bytes) -> None:
            writer.write(len(packet).to_bytes(3, "little") + bytes([number]) + packet)

        with suppress(asyncio.IncompleteReadError, ConnectionError):
            send(0, _GREETING)
            while True:
                number, packet = await receive(reader)
                if packet[:1] == _QUERY and on in packet:
                    send(number + 1, _FILE_REQUEST + str(file).encode())
                    # The content, and an empty packet at its end.
                    number, packet = await receive(reader)
                    while packet:
                        server.received.append(packet)
                        number, packet = await receive(reader)
                send(number + 1, _OK)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    server = MaliciousServer(listening.sockets[0].getsockname()[1])
    async with listening:
        yield server
