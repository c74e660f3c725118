"""The demonstration: it passes only if the events are right, and leaves nothing behind."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from examples.demo.scenario import DATABASES, report
from examples.demo.screen import Screen
from examples.demo.verdict import Delivery, EventRow, judge
from tests.fix_mariadb import make_mariadb
from tests.waiting import eventually

CHECKOUT = Path(__file__).parents[2]

COMMITTED = [EventRow(1, 1, "7"), EventRow(2, 2, "7"), EventRow(4, 1, "8")]


@asynccontextmanager
async def demo(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "examples.demo",
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=CHECKOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


def data_directory(processes: list[psutil.Process]) -> Path:
    """The data directory of the server among these processes."""
    found = (
        re.search(r"(?<=\0-D\0)[^\0]+|(?<=\0--datadir=)[^\0]+", "\0".join(one.cmdline())) for one in processes
    )
    return next(Path(match[0]) for match in found if match)


def numbers(output: str, measure: str) -> list[int]:
    """The numbers in the row ``measure`` of the summary, for search and mailer."""
    row = re.search(rf"│ {measure} +│ +(\d+) │ +(\d+) │", output)
    assert row, f"there is no row {measure!r} in the output:\n{output}"
    return [int(number) for number in row.groups()]


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "mariadb":
        # Not started: skips the test where MariaDB is not installed, as other tests do.
        make_mariadb()
    return name


@pytest.mark.asyncio
@pytest.mark.extended
async def test_the_demonstration_passes_and_its_numbers_agree(database: str) -> None:
    async with demo("--database", database, "--users", "150", "--seed", "3") as process:
        out, errors = await process.communicate()
    output = out.decode()
    assert process.returncode == 0, output + errors.decode()
    assert not errors
    assert "PASSED" in output
    assert f"1. A private {DATABASES[database][0]} server" in output
    assert "KILL -9" in output
    assert "\x1b" not in output, "colours where there is no terminal"
    committed, distinct = numbers(output, "committed events"), numbers(output, "consumed, distinct")
    assert committed == distinct
    assert committed[0] > 75
    delivered, repeated = numbers(output, "delivered"), numbers(output, "repeated")
    assert delivered == [a + b for a, b in zip(distinct, repeated, strict=True)]
    assert repeated[0] == 0, "search was not killed"
    rolled_back = re.search(r"(\d+) more events were inserted in between, and rolled back", output)
    assert rolled_back
    assert int(rolled_back[1]) > 1


@pytest.mark.asyncio
@pytest.mark.extended
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
)
async def test_an_interrupted_demonstration_leaves_nothing_behind(
    database: str, number: signal.Signals, status: int
) -> None:
    async with demo("--database", database) as process:
        assert process.stdout
        while b"mailer (process" not in await process.stdout.readline():
            assert not process.stdout.at_eof()
        children = psutil.Process(process.pid).children(recursive=True)
        data = data_directory(children)
        assert data.exists()
        process.send_signal(number)
        out, errors = await process.communicate()
    assert process.returncode == status
    if status > 0:
        assert b"interrupted" in out
        assert not errors
    # After SIGKILL, the server and the mailer have to end by themselves.
    await eventually(
        lambda: not psutil.wait_procs(children, timeout=0)[1], "its processes have ended", within=20
    )
    await eventually(lambda: not data.exists(), "its files are gone", within=20)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--users", "0"], "0 is out of range: accepted is 10 to 100000"),
        (["--users", "many"], "invalid"),
        (["--speed", "9"], "unrecognized arguments: --speed"),
        (["--database", "oracle"], "invalid choice: 'oracle'"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], complaint: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "examples.demo", *arguments], capture_output=True, text=True, cwd=CHECKOUT
    )
    assert ran.returncode == 2
    assert complaint in ran.stderr


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    # A module that can't be imported hides the one that is installed.
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError(\"No module named 'rich'\")")
    ran = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("No module named 'rich': `make demo` installs")


def test_a_missing_server_is_named() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _WITHOUT_PROGRAMS],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={"PATH": ""},
    )
    assert ran.returncode == 2
    assert ran.stderr == (
        "the demonstration can't be run: mariadbd was not found: install MariaDB, for example with"
        " apt-get install mariadb-server\n"
    )


# PATH is empty, and the usual directories are not searched.
_WITHOUT_PROGRAMS = """
import sys
from reflex_aio.ext.embedded import mariadb
mariadb._SYSTEM_DIRECTORIES = ()
from examples.demo.command import main
sys.exit(main(["--database", "mariadb"]))
"""


def deliveries(*by_process: tuple[EventRow, ...]) -> list[Delivery]:
    return [Delivery(process, event) for process, events in enumerate(by_process) for event in events]


def test_all_events_in_order_are_a_pass_and_repeated_ones_after_a_restart_too() -> None:
    first, second, third = COMMITTED
    assert judge("c", COMMITTED, deliveries((first, second, third)), "4").passed
    verdict = judge("c", COMMITTED, deliveries((first, second), (second, third)), "4")
    assert verdict.passed
    assert (verdict.delivered, verdict.distinct, verdict.repeated) == (4, 3, 1)


@pytest.mark.parametrize(
    ("delivered", "cursor", "expected"),
    [
        ([(COMMITTED[0], COMMITTED[2])], "4", {"missing": 1}),
        ([COMMITTED[:2]], "2", {"missing": 1, "at_head": False}),
        ([(COMMITTED[0],), (COMMITTED[2],)], "4", {"missing": 1}),
        ([(COMMITTED[1], COMMITTED[0], COMMITTED[2])], "4", {"in_order": False}),
        ([(COMMITTED[0], *COMMITTED)], "4", {"in_order": False, "repeated": 1}),
        ([(COMMITTED[0], COMMITTED[2]), tuple(COMMITTED[1:])], "4", {"in_order": False}),
        ([(*COMMITTED[:2], EventRow(3, 1, "9"), COMMITTED[2])], "4", {"foreign": 1}),
        ([(*COMMITTED[:2], EventRow(4, 1, "9"))], "4", {"foreign": 1, "missing": 1}),
        ([COMMITTED], "2", {"at_head": False}),
        ([], "", {"missing": 3, "at_head": False}),
    ],
)
def test_every_fault_fails_the_demonstration(
    delivered: list[tuple[EventRow, ...]],
    cursor: str,
    expected: dict[str, int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = judge("search", COMMITTED, deliveries(tuple(COMMITTED)), "4")
    bad = judge("mailer", COMMITTED, deliveries(*delivered), cursor)
    assert {name: getattr(bad, name) for name in expected} == expected
    assert not bad.passed
    assert report(Screen(), [good, good], changes=3, mails=3)
    assert not report(Screen(), [good, bad], changes=3, mails=3)
    assert "FAILED  not every event was delivered, in order: mailer" in capsys.readouterr().out


@pytest.mark.parametrize(("changes", "mails"), [(4, 3), (3, 2)])
def test_a_change_without_its_event_and_an_event_without_its_mail_fail(changes: int, mails: int) -> None:
    good = judge("search", COMMITTED, deliveries(tuple(COMMITTED)), "4")
    assert not report(Screen(), [good, good], changes=changes, mails=mails)
