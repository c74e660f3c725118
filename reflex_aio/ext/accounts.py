"""Programs of embedded servers: the system account that runs them, and running them."""

import asyncio
import contextlib
import os
import pwd
import subprocess
import sys
from pathlib import Path

from reflex_aio.errors import ReflexError

__all__ = ["Account", "EmbeddedServerError", "run_to_end"]

# Runs a program as another account.
_BECOME = """
import os, sys
uid, gid, *words = sys.argv[1:]
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
os.execv(words[0], words)
"""


class EmbeddedServerError(ReflexError):
    """Raised when a server can't be made or started; the message ends with what the server said."""


class Account:
    """The system account that runs a server: ours, or an unprivileged one if we are root, whom servers refuse.

    :param preferred: the name that the server's account has by custom
    :raises EmbeddedServerError: if there is neither that nor ``nobody``
    """

    def __init__(self, preferred: str) -> None:
        self._other = _unprivileged_account(preferred) if os.geteuid() == 0 else None

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


def _unprivileged_account(preferred: str) -> pwd.struct_passwd:
    for name in (preferred, "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedServerError(
        f"a database server refuses to run as root, and there is no account {preferred} or nobody"
    )


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
