"""A test that leaves something behind fails, and says what."""

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
