"""The way a command runs: its parameters, event loop and signals, and its errors as one line and an exit status."""

import asyncio
import functools
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from enum import IntEnum
from typing import Any, get_type_hints

import typer

from reflex_aio.errors import (
    ConnectionLost,
    CursorConflict,
    ErrorNotFound,
    EventNotFound,
    InvalidCursor,
    LeaseLost,
    ReflexError,
    StreamStopped,
    TableNotFound,
    UnknownStream,
)

__all__ = ["CommandError", "Exit", "command", "interruptible", "service"]

_TERMINATION_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

# If this variable is set, errors are shown with a traceback.
_TRACEBACK = "REFLEX_TRACEBACK"


class Exit(IntEnum):
    """The exit status of a command. docs/cli.md lists them."""

    DONE = 0
    FAILED = 1
    """The command failed, or found a difference from what is expected."""
    USAGE = 2
    """An option or argument is wrong. Nothing was tried."""
    NOT_FOUND = 3
    """The table, consumer, event, error or stream does not exist."""
    REFUSED = 4
    """The change was unsafe, or was not confirmed. Nothing was changed."""
    UNREACHABLE = 5
    """The database or the service cannot be reached. A later try may succeed."""
    INTERRUPTED = 130
    """Ended by Ctrl-C."""
    BROKEN_PIPE = 141
    """The reader of the output has closed it."""
    TERMINATED = 143
    """Ended by SIGTERM or SIGHUP."""


class CommandError(Exception):
    """Raised when a command cannot continue. The message is printed as one line."""

    def __init__(self, message: str, status: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.status = status


class _Terminated(Exception):
    """Raised when SIGTERM or SIGHUP has ended the command."""


def service(work: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a command that runs until it is stopped, on uvloop if it is installed. See :func:`command`."""
    return command(work, loop_factory=_make_fastest_loop)


def command(
    work: Callable[..., Coroutine[Any, Any, None]],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> Callable[..., None]:
    """Make a command from an async function, whose parameters are its options and arguments.

    A parameter that is a dataclass is a group of options: typer is shown its fields in its place.
    """

    @functools.wraps(work)
    def run(**values: Any) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(_run_until_terminated(work(**_collect_groups(work, values))))
            sys.stdout.flush()
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            status = Exit.INTERRUPTED
        except _Terminated:
            status = Exit.TERMINATED
        except BrokenPipeError:
            # Without this, Python would report the error again when it flushes the stream at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = Exit.BROKEN_PIPE
        except Exception as exc:
            if os.environ.get(_TRACEBACK):
                raise
            status = _print_error(exc)
        else:
            return
        raise typer.Exit(status)

    signature = _expand_groups(work)
    run.__signature__ = signature  # type: ignore[attr-defined]
    # typer reads the type hints from the annotations, not from the signature.
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return run


@contextmanager
def interruptible() -> Iterator[None]:
    """Let signals end a call that blocks the event loop, such as a prompt. They would be deferred otherwise."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else _Terminated

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, *_TERMINATION_SIGNALS)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _run_until_terminated(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``, and cancel it on SIGTERM or SIGHUP. On SIGINT asyncio itself cancels it."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    # Python delivers signals to the main thread only.
    main = threading.current_thread() is threading.main_thread()
    numbers = _TERMINATION_SIGNALS if main else ()
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


def _make_fastest_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop of uvloop if it is installed, otherwise one of asyncio."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _print_error(error: Exception) -> Exit:
    """Print an error as one line, and return the exit status."""
    status, message = _exit_status(error), str(error)
    if status is None:
        status = Exit.FAILED
        message = f"{type(error).__name__}: {message} (set {_TRACEBACK}=1 for a traceback)"
    typer.echo(f"reflex-aio: {' '.join(message.split())}", err=True)
    return status


def _exit_status(error: Exception) -> Exit | None:
    """Return the exit status for an error, or ``None`` for one that no command expects."""
    if isinstance(error, CommandError):
        return error.status
    if isinstance(error, (TableNotFound, ErrorNotFound, EventNotFound, UnknownStream)):
        return Exit.NOT_FOUND
    if isinstance(error, (ConnectionLost, StreamStopped)):
        return Exit.UNREACHABLE
    if isinstance(error, (CursorConflict, LeaseLost)):
        return Exit.REFUSED
    if isinstance(error, InvalidCursor):
        return Exit.USAGE
    # ModuleNotFoundError: the message names the extra that is missing.
    return Exit.FAILED if isinstance(error, (ReflexError, ModuleNotFoundError)) else None


def _expand_groups(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a command, in which each dataclass parameter is replaced by its fields.

    :raises TypeError: if two options have the same name
    """
    expanded: dict[str, inspect.Parameter] = {}
    for name, kind in _parameter_types(function).items():
        parameters = [inspect.signature(function).parameters[name].replace(annotation=kind)]
        if _is_group(kind):
            hints = get_type_hints(kind, include_extras=True)
            parameters = [
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    annotation=hints[field.name],
                    default=inspect.Parameter.empty if field.default is MISSING else field.default,
                )
                for field in fields(kind)
            ]
        for parameter in parameters:
            if parameter.name in expanded:
                raise TypeError(f"two options of {function.__name__} are named {parameter.name}")
            expanded[parameter.name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    return inspect.Signature(list(expanded.values()))


def _collect_groups(function: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a command, in which the fields of each dataclass parameter are collected in one."""
    return {
        name: kind(**{field.name: values[field.name] for field in fields(kind)})
        if _is_group(kind)
        else values[name]
        for name, kind in _parameter_types(function).items()
    }


def _parameter_types(function: Callable[..., Any]) -> dict[str, Any]:
    hints = get_type_hints(function, include_extras=True)
    return {name: hints[name] for name in inspect.signature(function).parameters}


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind)
