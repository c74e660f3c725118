"""The command line of the demonstration: options, exit status, and signals."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from examples.demo.scenario import DATABASES, run_scenario
from examples.demo.screen import Screen
from reflex_aio.ext.embedded import EmbeddedServerError

_DESCRIPTION = """
Demonstrates reflex_aio in about 15 seconds: a users service that inserts events in the transactions of its changes, a
consumer in the same process, and a second service in another process that consumes over gRPC, and is killed and
restarted midway. Needs nothing but this checkout: a temporary database server is started, and removed in the end.
"""
_EPILOG = """
exit status: 0 if each consumer received every committed event, in order, and nothing else; 1 if not; 2 if the
demonstration could not be run; 130 if it was interrupted. NO_COLOR=1 turns off colours.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False
    )
    parser.add_argument(
        "--database", choices=DATABASES, default="postgres", help="the database system (%(default)s)"
    )
    parser.add_argument(
        "--users", type=_count, default=600, metavar="N", help="the number of users who try to sign up (600)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the seed of the random numbers (1)")
    options = parser.parse_args(arguments)
    screen = Screen()
    try:
        passed = asyncio.run(_run_until_interrupted(screen, options))
    except KeyboardInterrupt:
        screen.title("interrupted: all processes were stopped, and all files removed")
        return 130
    except (EmbeddedServerError, ModuleNotFoundError, OSError) as exc:
        print(f"the demonstration can't be run: {exc}", file=sys.stderr)
        return 2
    return 0 if passed else 1


async def _run_until_interrupted(screen: Screen, options: argparse.Namespace) -> bool:
    running = asyncio.create_task(
        run_scenario(screen, database=options.database, users=options.users, seed=options.seed)
    )
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        running.cancel()

    # asyncio.run handles SIGINT only. SIGTERM and a closed terminal have to clean up as well.
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    try:
        return await running
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise


def _count(text: str) -> int:
    count = int(text)
    if not 10 <= count <= 100_000:
        raise argparse.ArgumentTypeError(f"{count} is out of range: accepted is 10 to 100000")
    return count
