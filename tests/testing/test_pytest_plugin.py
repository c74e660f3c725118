"""The fixtures, as a user's tests use them: in a process of its own, with the plugin that is named."""

import pytest

from tests.docs.documents import CHECKOUT, blocks

PLUGIN = ("-p", "reflex_aio.pytest_plugin")
# What this suite itself has installed; users may not.
ALONE = (
    "-p",
    "no:asyncio",
    "-p",
    "no:anyio",
    "-p",
    "no:xdist",
    "-p",
    "no:timeout",
    "-p",
    "no:hypothesispytest",
)


@pytest.fixture(autouse=True)
def _checkout_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))


def test_fixtures_are_there_without_any_plugin_for_asynchronous_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncio
        import asyncpg
        from reflex_aio import Consumer, Spec, run
        from reflex_aio.sql import EventsTable

        async def tables(dsn):
            connection = await asyncpg.connect(dsn)
            try:
                await EventsTable("user_events", wakeups=None).create(connection)
                return await connection.fetchval("SELECT current_database()")
            finally:
                await connection.close()

        names = set()

        def test_database(reflex_database):
            names.add(asyncio.run(tables(reflex_database)))

        def test_another_database(reflex_database, reflex_postgres):
            names.add(asyncio.run(tables(reflex_database)))
            assert reflex_postgres.running

        def test_each_had_its_own(reflex_postgres):
            assert len(names) == 2

            async def left():
                connection = await asyncpg.connect(reflex_postgres.dsn)
                try:
                    return await connection.fetch("SELECT FROM pg_database WHERE datname = ANY($1)", names)
                finally:
                    await connection.close()

            assert asyncio.run(left()) == []

        def test_memory(reflex_events, reflex_cursors):
            async def handle(event):
                pass

            async def consume():
                await reflex_events.insert(1, 1)
                await run(Spec(reflex_events, reflex_cursors, Consumer("c", handle), to_head=True))
                return await reflex_cursors.all()

            assert asyncio.run(consume()) == {"c": "1"}
        """
    )
    pytester.runpytest_subprocess(*PLUGIN, *ALONE, "-W", "error").assert_outcomes(passed=4)


def test_the_settings_of_the_server_can_be_overridden(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncpg
        import pytest
        import pytest_asyncio

        @pytest.fixture(scope="session")
        def reflex_postgres_settings():
            return {"fsync": False, "max_connections": 23}

        @pytest_asyncio.fixture
        async def pool(reflex_database):
            async with asyncpg.create_pool(reflex_database, min_size=1) as pool:
                yield pool

        @pytest.mark.asyncio
        async def test_setting(pool):
            assert await pool.fetchval("SHOW max_connections") == "23"
        """
    )
    scope = "asyncio_default_fixture_loop_scope=function"
    pytester.runpytest_subprocess(*PLUGIN, "-o", scope, "-W", "error").assert_outcomes(passed=1)


def test_a_pool_is_made_as_the_document_says(pytester: pytest.Pytester) -> None:
    [fixture] = blocks(CHECKOUT / "docs/testing.md", "py")
    imports = """
import asyncpg, pytest, pytest_asyncio
from collections.abc import AsyncIterator
from reflex_aio.sql import EventsTable, close_notifiers
user_events = EventsTable("user_events")
"""
    test = """
@pytest.mark.asyncio
@pytest.mark.parametrize("again", [False, True])
async def test_it(pool, again):
    async with pool.acquire() as connection:
        assert await user_events.insert(connection, 7, 1) == "1"
"""
    pytester.makepyfile(imports + fixture.code + test)
    pytester.runpytest_subprocess(*PLUGIN).assert_outcomes(passed=2)


def test_a_connection_that_a_test_leaves_open_does_not_hold_up_the_others(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncpg
        import pytest

        @pytest.mark.asyncio(loop_scope="session")
        async def test_leaves_one(reflex_database, request):
            request.config.left = await asyncpg.connect(reflex_database)

        @pytest.mark.asyncio(loop_scope="session")
        async def test_goes_on(reflex_database, request):
            request.config.left.terminate()
        """
    )
    pytester.runpytest_subprocess(*PLUGIN).assert_outcomes(passed=2)


def test_without_the_extra_the_server_says_what_to_install(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        conftest="""
        import importlib.util, pytest
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if "pgserver" in name else find(name, *more)
        """,
        test_it="def test_database(reflex_database): pass",
    )
    result = pytester.runpytest_subprocess(*PLUGIN)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*pip install 'reflex-aio[[]embedded[]]'*"])


def test_nothing_is_started_that_no_test_asks_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        import threading

        def test_nothing():
            assert "asyncpg" not in sys.modules
            assert "reflex_aio.ext.embedded" not in sys.modules
            assert threading.active_count() == 1
        """
    )
    pytester.runpytest_subprocess(*PLUGIN, *ALONE).assert_outcomes(passed=1)
