"""Whether the processes of embedded servers are there."""

import contextlib

import psutil


def children() -> set[int]:
    """The processes that this one has started, and theirs."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def started_since(before: set[int]) -> set[int]:
    """The processes that were not there ``before``, nor were started by those that were.

    The tests' own PostgreSQL starts a worker now and then, which is none of ours.
    """
    started = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.pid not in before and child.ppid() not in before:
                started.add(child.pid)
    return started


def ended(pid: int) -> bool:
    """Whether a process has ended."""
    # Where nothing reaps orphans, as in many containers, a zombie is all that remains.
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
