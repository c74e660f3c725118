"""A test that leaves something behind fails, and says what."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A test suite of its own, with this one's fixtures."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("REFLEX_TEST_DSN", raising=False)
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    pytester.makepyprojecttoml((ROOT / "pyproject.toml").read_text())
    return pytester


def failure(suite: pytest.Pytester, test: str) -> pytest.RunResult:
    head = "import asyncio, asyncpg, pytest\npytestmark = pytest.mark.asyncio\nkept = []\n"
    suite.makepyfile(test_it=f"{head}async def test_it(database):\n    {test}\n")
    result = suite.runpytest_subprocess("test_it.py", "-p", "no:cacheprovider")
    assert result.ret != 0
    return result


def test_a_task_left_running_is_an_error(suite: pytest.Pytester) -> None:
    result = failure(suite, "kept.append(asyncio.create_task(asyncio.sleep(99), name='forgotten'))")
    result.stdout.fnmatch_lines(["*tasks that the test left running:*", "*name='forgotten'*waits at*"])


def test_a_connection_left_open_is_an_error(suite: pytest.Pytester) -> None:
    result = failure(suite, "kept.append(await asyncpg.connect(database.dsn))")
    result.stdout.fnmatch_lines(["*the test closed its connections, but for [[]<Record pid=*"])


def test_a_transaction_left_prepared_is_an_error(suite: pytest.Pytester) -> None:
    statements = "CREATE TABLE t (); BEGIN; INSERT INTO t DEFAULT VALUES; PREPARE TRANSACTION 'forgotten'"
    prepare = f'c = await asyncpg.connect(database.dsn); await c.execute("{statements}"); await c.close()'
    result = failure(suite, prepare)
    result.stdout.fnmatch_lines(["*transactions that the test left prepared: [[]<Record gid='forgotten'*"])


def test_a_test_that_hangs_fails_and_says_where(suite: pytest.Pytester) -> None:
    result = failure(
        suite, "await asyncio.Event().wait()\ntest_it = pytest.mark.timeout(1, func_only=True)(test_it)"
    )
    result.stdout.fnmatch_lines(["*Timeout (>1.0s)*"])
    result.stdout.fnmatch_lines(["*test_it.py:* in test_it*", "*locks.py:* in Event.wait*"])


def test_a_warning_is_an_error(suite: pytest.Pytester) -> None:
    result = failure(suite, "import warnings; warnings.warn('careful')")
    result.stdout.fnmatch_lines(["*UserWarning: careful*"])


def test_children_of_a_failed_test_end_before_its_database_is_dropped(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_it="""
        import asyncpg, pytest

        @pytest.mark.asyncio
        async def test_it(spawn, database):
            child = await spawn(hold, database.dsn)
            assert await child.line() == "ready"
            assert False, "only this"

        async def hold(dsn):
            connection = await asyncpg.connect(dsn)
            print("ready", flush=True)
            input()
        """
    )
    result = suite.runpytest_subprocess("test_it.py", "-p", "no:cacheprovider", "--import-mode=prepend")
    result.assert_outcomes(failed=1)


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
