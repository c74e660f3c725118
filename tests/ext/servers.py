"""Observation of the processes of embedded servers."""

import contextlib

import psutil


def children() -> set[int]:
    """Return the pids of all descendants of this process."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def started_since(before: set[int]) -> set[int]:
    """Return the pids of descendants that are neither in ``before`` nor children of those.

    The PostgreSQL that the tests share starts a worker now and then.
    """
    started = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.pid not in before and child.ppid() not in before:
                started.add(child.pid)
    return started


def ended(pid: int) -> bool:
    """Return whether a process has ended."""
    # Where nothing reaps orphans, as in many containers, a zombie is all that remains.
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
