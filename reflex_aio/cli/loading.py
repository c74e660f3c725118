"""What a user's own module has, by the name ``module:object``."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from reflex_aio.cli.exits import CommandError, Exit

__all__ = ["load"]


def load(option: str, name: str) -> Any:
    """Return an object of a module, which is looked for in the current directory first.

    :param option: what messages call it
    :param name: ``package.module:object``, or ``package.module:object.attribute``
    :raises CommandError: if there is none
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise CommandError(f"{option} {name!r} is not accepted: it is module:object", Exit.USAGE)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = import_module(module_name)
    except ModuleNotFoundError as exc:
        # One that the module itself misses is another matter.
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise CommandError(f"{option} {name!r} can't be imported: {exc}") from exc
        raise CommandError(f"{option} {name!r}: there is no module {exc.name}", Exit.USAGE) from exc
    except Exception as exc:
        raise CommandError(f"{option} {name!r} can't be imported: {type(exc).__name__}: {exc}") from exc
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise CommandError(f"{option} {name!r}: {module_name} has no {path}", Exit.USAGE)
        found = getattr(found, attribute)
    return found
