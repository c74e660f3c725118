"""A test that leaves something behind fails, and says what."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


# The tests of a suite of its own, with this one's fixtures. It is run once, as its start takes longer than its tests.
TESTS = """
import asyncio, asyncpg, pytest, warnings

kept = []

@pytest.mark.asyncio
async def test_task(database):
    kept.append(asyncio.create_task(asyncio.sleep(99), name="forgotten"))

@pytest.mark.asyncio
async def test_connection(database):
    kept.append(await asyncpg.connect(database.dsn))

@pytest.mark.asyncio
async def test_prepared(database):
    connection = await asyncpg.connect(database.dsn)
    await connection.execute(
        "CREATE TABLE t (); BEGIN; INSERT INTO t DEFAULT VALUES; PREPARE TRANSACTION 'forgotten'"
    )
    await connection.close()

@pytest.mark.timeout(1, func_only=True)
@pytest.mark.asyncio
async def test_hangs(database):
    await asyncio.Event().wait()

def test_warning():
    warnings.warn("careful")

@pytest.mark.asyncio
async def test_child(spawn, database):
    child = await spawn(hold, database.dsn)
    assert await child.line() == "ready"
    assert False, "only this"

async def hold(dsn):
    connection = await asyncpg.connect(dsn)
    print("ready", flush=True)
    input()

@pytest.mark.asyncio
async def test_good(database):
    pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A test suite of its own, with this one's fixtures."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("REFLEX_TEST_DSN", raising=False)
    # What is left behind is there however long the suite waits.
    monkeypatch.setenv("REFLEX_TEST_PATIENCE", "1")
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    pytester.makepyprojecttoml((ROOT / "pyproject.toml").read_text())
    return pytester


def test_what_a_test_leaves_behind_is_an_error_of_that_test_alone(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_it=TESTS)
    result = suite.runpytest_subprocess("test_it.py", "-p", "no:cacheprovider", "--import-mode=prepend")
    for lines in (
        [
            "*ERROR at teardown of test_task*",
            "*tasks that the test left running:*",
            "*name='forgotten'*waits at*",
        ],
        [
            "*ERROR at teardown of test_connection*",
            "*the test closed its connections, but for [[]<Record pid=*",
        ],
        ["*ERROR at teardown of test_prepared*", "*that the test left prepared: [[]<Record gid='forgotten'*"],
        ["*Timeout (>1.0s)*"],
        ["*test_it.py:* in test_hangs*", "*locks.py:* in Event.wait*"],
        ["*UserWarning: careful*"],
        ["*only this*"],
    ):
        result.stdout.fnmatch_lines(lines)
    # Of the test that hangs, its own task is left. The child of the test that failed has ended before its database was
    # dropped, else there were a fifth error.
    result.assert_outcomes(passed=4, failed=3, errors=4)


def test_a_failed_test_is_repeated_by_the_command_that_is_printed(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_it="""
        import pytest
        from hypothesis import given, strategies

        def test_seed(seed):
            assert seed < 0

        @given(strategies.integers())
        def test_hypothesis(number):
            print("drawn", number)
            assert number < 0

        @pytest.mark.parametrize("text", ["me@host"])
        def test_parameter(text):
            assert text != "me@host"
        """
    )
    first = suite.runpytest_subprocess("test_it.py", "-p", "no:cacheprovider")
    assert first.ret == 1
    commands = [line for line in first.stdout.lines if " -m pytest --seed=" in line]
    assert [shlex.split(command)[-1].partition("::")[2] for command in commands] == [
        "test_seed",
        "test_hypothesis",
        "test_parameter[me@host]",
    ]
    seed = re.search(r"random choices: (--seed=\d+)", first.stdout.str())
    assert seed
    assert all(seed[1] in command for command in commands)
    outputs = [
        subprocess.run(shlex.split(commands[1]), capture_output=True, text=True).stdout for _ in range(2)
    ]
    drawn = [re.findall(r"^drawn .*", output, re.MULTILINE) for output in outputs]
    assert drawn[0] == drawn[1] != []
