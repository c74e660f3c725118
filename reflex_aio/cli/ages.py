"""Ages as people write them: ``90s``, ``30m``, ``2h``, ``7d``; and times in their place."""

import re
from datetime import UTC, datetime

from reflex_aio.cli.exits import CommandError, Exit

__all__ = ["age", "seconds_ago"]

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def age(option: str, text: str) -> float:
    """Return the age that an option tells, in seconds.

    :raises CommandError: if it tells none
    """
    if found := _AGE.fullmatch(text):
        return float(found[1]) * _SECONDS[found[2]]
    raise CommandError(f"{option} {text!r} is not accepted: it is 90s, 30m, 2h or 7d", Exit.USAGE)


def seconds_ago(option: str, text: str) -> float:
    """Return how long ago it was what an option tells, an age or a time, in seconds.

    :raises CommandError: if it tells none, or one in the future
    """
    if _AGE.fullmatch(text):
        return age(option, text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{option} {text!r} is not accepted: it is 90s, 30m, 2h or 7d, or a time as 2026-01-31T12:00",
            Exit.USAGE,
        ) from None
    seconds = (datetime.now(UTC) - (when if when.tzinfo else when.replace(tzinfo=UTC))).total_seconds()
    if seconds < 0:
        raise CommandError(f"{option} {text!r} is in the future", Exit.USAGE)
    return seconds
