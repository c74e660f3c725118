"""The command: its options, its exit status, and its end when it is interrupted."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from examples.demo.screen import Screen
from examples.demo.story import DATABASES, tell
from reflex_aio.ext.embedded import EmbeddedServerError

_DESCRIPTION = """
Shows reflex_aio at work, in about 15 seconds: a users service that inserts events in the transactions of its changes,
a consumer beside it, and a second service in another process that consumes over gRPC, and is killed and started again
midway. Needs nothing but this checkout: a server is started for the time being, and everything is removed in the end.
"""
_EPILOG = """
exit status: 0 if each consumer got each committed event, in order, and nothing else; 1 if not; 2 if the demonstration
could not be run; 130 if it was interrupted. NO_COLOR=1 turns off colours.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False
    )
    parser.add_argument(
        "--database", choices=DATABASES, default="postgres", help="where the tables are (%(default)s)"
    )
    parser.add_argument(
        "--users", type=_count, default=600, metavar="N", help="how many users try to sign up (600)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="what the users do is drawn from this (1)"
    )
    options = parser.parse_args(arguments)
    screen = Screen()
    try:
        passed = asyncio.run(_tell(screen, options))
    except KeyboardInterrupt:
        screen.title("interrupted: everything that was started has been stopped and removed")
        return 130
    except (EmbeddedServerError, ModuleNotFoundError, OSError) as exc:
        print(f"the demonstration can't be run: {exc}", file=sys.stderr)
        return 2
    return 0 if passed else 1


async def _tell(screen: Screen, options: argparse.Namespace) -> bool:
    telling = asyncio.create_task(
        tell(screen, database=options.database, users=options.users, seed=options.seed)
    )
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        telling.cancel()

    # asyncio.run cancels on SIGINT by itself; a terminal that is closed, and kill, are to be as tidy.
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    try:
        return await telling
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise


def _count(text: str) -> int:
    count = int(text)
    if not 10 <= count <= 100_000:
        raise argparse.ArgumentTypeError(f"{count} is out of range: accepted is 10 to 100000")
    return count
