"""For tests: of consumers and services, and of sources, cursor stores and lease stores of your own.

Works with any test runner, on asyncio and trio. Fixtures for pytest are in :mod:`reflex_aio.pytest_plugin`.
"""

from reflex_aio.testing.attempt_stores import MakeAttemptStore, attempt_store_rules, check_attempt_store
from reflex_aio.testing.consumers import await_consumer, await_cursor
from reflex_aio.testing.contract import ContractBroken
from reflex_aio.testing.cursor_stores import (
    CursorStoreFeature,
    MakeCursorStore,
    check_cursor_store,
    cursor_store_rules,
)
from reflex_aio.testing.events import assert_events, inserted_events, read_events
from reflex_aio.testing.fenced_stores import MakeFencedStore, check_fenced_store, fenced_store_rules
from reflex_aio.testing.lease_stores import MakeLeaseStore, check_lease_store, lease_store_rules
from reflex_aio.testing.scripted import CursorStoreCall, ScriptedCursorStore, ScriptedSource
from reflex_aio.testing.sources import Insert, MakeSource, SourceFeature, check_source, source_rules

__all__ = [
    "ContractBroken",
    "CursorStoreCall",
    "CursorStoreFeature",
    "Insert",
    "MakeAttemptStore",
    "MakeCursorStore",
    "MakeFencedStore",
    "MakeLeaseStore",
    "MakeSource",
    "ScriptedCursorStore",
    "ScriptedSource",
    "SourceFeature",
    "assert_events",
    "attempt_store_rules",
    "await_consumer",
    "await_cursor",
    "check_attempt_store",
    "check_cursor_store",
    "check_fenced_store",
    "check_lease_store",
    "check_source",
    "cursor_store_rules",
    "fenced_store_rules",
    "inserted_events",
    "lease_store_rules",
    "read_events",
    "source_rules",
]
