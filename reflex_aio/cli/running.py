"""Running a command: an async function, with its errors as one line, and its end when it is asked to end."""

import asyncio
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from reflex_aio.cli.exits import Exit, status_of
from reflex_aio.cli.groups import expanded, gathered
from reflex_aio.cli.loops import fastest_loop

__all__ = ["command", "interruptible", "service"]

_TERMINATING = (signal.SIGTERM, signal.SIGHUP)

# With this set, an error has its traceback.
_TRACEBACK = "REFLEX_TRACEBACK"


class _Terminated(Exception):
    """Raised when SIGTERM or SIGHUP has ended the command."""


def service(work: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a command that runs for long, on the fastest event loop there is. See :func:`command`."""
    return command(work, loop_factory=fastest_loop)


def command(
    work: Callable[..., Coroutine[Any, Any, None]],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> Callable[..., None]:
    """Make a command of an async function, whose parameters are its options and arguments.

    A parameter that is a dataclass stands for its fields: see :mod:`reflex_aio.cli.groups`.
    """

    @functools.wraps(work)
    def run(**values: Any) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(_until_terminated(work(**gathered(work, values))))
            sys.stdout.flush()
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            status = Exit.INTERRUPTED
        except _Terminated:
            status = Exit.TERMINATED
        except BrokenPipeError:
            # Python would complain once more when it flushes on its way out.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = Exit.BROKEN_PIPE
        except Exception as exc:
            if os.environ.get(_TRACEBACK):
                raise
            status = _tell(exc)
        else:
            return
        raise typer.Exit(status)

    signature = expanded(work)
    run.__signature__ = signature  # type: ignore[attr-defined]
    # Of a type hint that is read from the annotations.
    run.__annotations__ = {name: given.annotation for name, given in signature.parameters.items()}
    return run


async def _until_terminated(work: Coroutine[Any, Any, None]) -> None:
    """Do ``work``, and cancel it on SIGTERM or SIGHUP; asyncio itself does so on SIGINT."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    # Only the main thread hears of signals.
    main = threading.current_thread() is threading.main_thread()
    numbers = _TERMINATING if main else ()
    for number in numbers:
        loop.add_signal_handler(number, terminate)
    try:
        await work
    except asyncio.CancelledError:
        if terminated:
            raise _Terminated from None
        raise
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let signals end what blocks the event loop, such as a question, where they would wait for it otherwise."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else _Terminated

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, *_TERMINATING)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(error: Exception) -> Exit:
    """Write one line that tells of an error, and return the exit status."""
    status, told = status_of(error), str(error)
    if status is None:
        status = Exit.FAILED
        told = f"{type(error).__name__}: {told} ({_TRACEBACK}=1 shows where)"
    typer.echo(f"reflex-aio: {' '.join(told.split())}", err=True)
    return status
