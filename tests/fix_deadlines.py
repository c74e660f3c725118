"""Limits of time that fit the machine: one factor for all, measured once, before the first test."""

import subprocess
import sys
import time

import pytest

from tests.waiting import patience, set_patience

# In seconds: the start of a Python process with asyncio, on a machine with nothing else to do.
_USUAL = 0.2
# The least factor, as a quiet machine need not stay quiet, and the greatest, as a test that hangs has to end.
_LEAST, _MOST = 3.0, 10.0


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if patience() is None:
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import asyncio"], check=True)
        # The processes of xdist inherit it, and the children of tests.
        took = (time.monotonic() - began) / _USUAL
        set_patience(min(max(_LEAST, _LEAST * took), _MOST))
    if config.getoption("timeout", None) is None:
        config.option.timeout = float(config.getini("timeout")) * (patience() or 1.0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # pytest sets fixtures up in this order, and ends them in reverse: children end before the database that
        # they use is checked and dropped, even if the test failed before it ended them.
        names: list[str] = getattr(item, "fixturenames", [])
        if "spawn" in names:
            names.remove("spawn")
            names.append("spawn")


def pytest_report_header() -> str:
    return f"limits of time: multiplied by {patience():.1f} (REFLEX_TEST_PATIENCE)"
