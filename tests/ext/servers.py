"""Whether the processes of embedded servers are there."""

import psutil


def children() -> set[int]:
    """The processes that this one has started, and theirs."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def ended(pid: int) -> bool:
    """Whether a process has ended."""
    # Where nothing reaps orphans, as in many containers, a zombie is all that remains.
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
