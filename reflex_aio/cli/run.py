"""``run``: a service's own runner, with health checks over HTTP."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from signal import SIGINT, SIGTERM
from typing import Annotated, Any

import typer

from reflex_aio.cli.command import CommandError, Exit, service
from reflex_aio.cli.options import load_object
from reflex_aio.cli.output import print_note
from reflex_aio.health import HealthApp, Message
from reflex_aio.runner.runner import Runner

__all__ = ["run"]

_ACCEPTED = "a Runner, or a function without arguments that returns one or an async context manager of one"

# The time that a client of the health checks may take to send its request, in seconds.
_REQUEST_TIMEOUT = 5.0


@service
async def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:OBJECT",
            show_default=False,
            help="A Runner, or a function without arguments that returns one or an async context manager of one.",
        ),
    ],
    health_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            show_default=False,
            help="Serve /livez, /readyz and /statusz on this port; 0 is any free port, which is printed.",
        ),
    ] = None,
    health_host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
) -> None:
    """Run the consumers of a service. SIGTERM or Ctrl-C drains them, and a second signal ends the command at once.

    Ends with status 1 if consumers were cancelled because they did not finish in time.
    """
    loaded = _load_target(target)
    async with AsyncExitStack() as stack:
        runner = await stack.enter_async_context(_enter_target(target, loaded))
        if health_port is not None:
            health = HealthApp()
            health.source = runner
            try:
                address = await stack.enter_async_context(
                    _serve_health(health, host=health_host, port=health_port)
                )
            except OSError as exc:
                raise CommandError(f"--health-port: {health_host}:{health_port}: {exc.strerror}") from exc
            print_note(f"health checks at http://{address}/livez, /readyz, /statusz")
        await runner.run(signals=(SIGTERM, SIGINT))
    if runner.interrupted_by is not None:
        raise typer.Exit(Exit.INTERRUPTED if runner.interrupted_by is SIGINT else Exit.TERMINATED)
    if runner.unfinished:
        raise CommandError(f"cancelled, not drained in time: {', '.join(runner.unfinished)}")


def _load_target(target: str) -> Any:
    found = load_object("run", target)
    if isinstance(found, (Runner, AbstractAsyncContextManager)) or not callable(found):
        return found
    required = [
        each.name
        for each in inspect.signature(found).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if required:
        raise CommandError(
            f"run {target!r} needs arguments ({', '.join(required)}): accepted is {_ACCEPTED}", Exit.USAGE
        )
    return found


@asynccontextmanager
async def _enter_target(target: str, loaded: Any) -> AsyncIterator[Runner]:
    # A function is called here rather than when it is loaded: pools have to be created in a running event loop.
    if callable(loaded) and not isinstance(loaded, (Runner, AbstractAsyncContextManager)):
        loaded = loaded()
    if inspect.isawaitable(loaded):
        loaded = await loaded
    async with AsyncExitStack() as stack:
        if not isinstance(loaded, Runner) and isinstance(loaded, AbstractAsyncContextManager):
            loaded = await stack.enter_async_context(loaded)
        if not isinstance(loaded, Runner):
            raise CommandError(
                f"run {target!r} is a {type(loaded).__name__}: accepted is {_ACCEPTED}", Exit.USAGE
            )
        yield loaded


@asynccontextmanager
async def _serve_health(app: HealthApp, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve ``app`` over HTTP, of which it implements only what health checks need, and yield the address.

    :raises OSError: if the port is in use, or the host is not a local address
    """

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT):
                await _respond(app, reader, writer)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # The client has disconnected, or does not send HTTP.
        finally:
            writer.close()

    server = await asyncio.start_server(respond, host, port)
    async with server:
        bound = server.sockets[0].getsockname()
        yield f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"


async def _respond(app: HealthApp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Respond to one request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    method, _, rest = head.partition(" ")
    path = rest.split(" ")[0].partition("?")[0]

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            status = HTTPStatus(message["status"])
            headers = [*message["headers"], (b"connection", b"close")]
            lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode())]
            lines += [b"%s: %s" % header for header in headers]
            writer.write(b"\r\n".join([*lines, b"", b""]))
        else:
            writer.write(message["body"])
            await writer.drain()

    await app({"type": "http", "method": method, "path": path}, receive, send)
