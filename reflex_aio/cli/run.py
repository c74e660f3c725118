"""``run``: a runner of the user's own, from the command line."""

import inspect
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from signal import SIGINT, SIGTERM
from typing import Annotated, Any

import typer

from reflex_aio.cli.exits import CommandError, Exit
from reflex_aio.cli.health_port import serving
from reflex_aio.cli.loading import load
from reflex_aio.cli.output import note
from reflex_aio.cli.running import service
from reflex_aio.health import HealthApp
from reflex_aio.runner.runner import Runner

__all__ = ["run"]

_ACCEPTED = "a Runner, or a function without arguments that returns one or an async context manager of one"


@service
async def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:OBJECT",
            show_default=False,
            help="A Runner; or a function without arguments that returns one, or an async context manager of one.",
        ),
    ],
    health_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            show_default=False,
            help="Answer /livez, /readyz and /statusz on this port; 0 takes any that is free, and tells it.",
        ),
    ] = None,
    health_host: Annotated[str, typer.Option(help="The address to answer at.")] = "127.0.0.1",
) -> None:
    """Run the consumers of a service, until SIGTERM or Ctrl-C: then they are drained, and a second signal ends at once.

    Ends with status 1 if consumers were cut off, as they didn't finish in time.
    """
    made = _loaded(target)
    async with AsyncExitStack() as stack:
        runner = await stack.enter_async_context(_entered(target, made))
        if health_port is not None:
            try:
                address = await stack.enter_async_context(
                    serving(HealthApp(runner), host=health_host, port=health_port)
                )
            except OSError as exc:
                raise CommandError(f"--health-port: {health_host}:{health_port}: {exc.strerror}") from exc
            note(f"health checks at http://{address}/livez, /readyz, /statusz")
        await runner.run(signals=(SIGTERM, SIGINT))
    if runner.interrupted_by is not None:
        raise typer.Exit(Exit.INTERRUPTED if runner.interrupted_by is SIGINT else Exit.TERMINATED)
    if runner.unfinished:
        raise CommandError(f"cancelled, not drained in time: {', '.join(runner.unfinished)}")


def _loaded(target: str) -> Any:
    found = load("run", target)
    if isinstance(found, (Runner, AbstractAsyncContextManager)) or not callable(found):
        return found
    needed = [
        each.name
        for each in inspect.signature(found).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if needed:
        raise CommandError(
            f"run {target!r} needs arguments ({', '.join(needed)}): accepted is {_ACCEPTED}", Exit.USAGE
        )
    return found


@asynccontextmanager
async def _entered(target: str, made: Any) -> AsyncIterator[Runner]:
    # Called here rather than where it was loaded, as pools want a running loop.
    if callable(made) and not isinstance(made, (Runner, AbstractAsyncContextManager)):
        made = made()
    if inspect.isawaitable(made):
        made = await made
    async with AsyncExitStack() as stack:
        if not isinstance(made, Runner) and isinstance(made, AbstractAsyncContextManager):
            made = await stack.enter_async_context(made)
        if not isinstance(made, Runner):
            raise CommandError(
                f"run {target!r} is a {type(made).__name__}: accepted is {_ACCEPTED}", Exit.USAGE
            )
        yield made
