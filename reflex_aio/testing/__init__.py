"""For tests of services and consumers, and of sources and stores that users implement.

Works with any test runner, on asyncio and trio. Fixtures for pytest are in :mod:`reflex_aio.pytest_plugin`.
"""

from reflex_aio.testing.attempt_stores import check_attempt_store
from reflex_aio.testing.contract import ContractBroken, rules_of
from reflex_aio.testing.cursor_stores import check_cursor_store
from reflex_aio.testing.lease_stores import check_fenced_store, check_lease_store
from reflex_aio.testing.services import (
    ScriptedCursorStore,
    ScriptedSource,
    assert_events,
    await_consumer,
    await_cursor,
    inserted_events,
    read_events,
)
from reflex_aio.testing.sources import check_source

__all__ = [
    "ContractBroken",
    "ScriptedCursorStore",
    "ScriptedSource",
    "assert_events",
    "await_consumer",
    "await_cursor",
    "check_attempt_store",
    "check_cursor_store",
    "check_fenced_store",
    "check_lease_store",
    "check_source",
    "inserted_events",
    "read_events",
    "rules_of",
]
