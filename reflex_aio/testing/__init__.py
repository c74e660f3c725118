"""For tests: of consumers and services, and of sources and cursor stores of your own.

Works with any test runner, on asyncio and trio. Fixtures for pytest are in :mod:`reflex_aio.pytest_plugin`.
"""

from reflex_aio.testing.consumers import await_consumer, await_cursor
from reflex_aio.testing.contract import ContractBroken
from reflex_aio.testing.cursor_stores import (
    CursorStoreFeature,
    MakeCursorStore,
    check_cursor_store,
    cursor_store_rules,
)
from reflex_aio.testing.events import assert_events, inserted_events, read_events
from reflex_aio.testing.scripted import CursorStoreCall, ScriptedCursorStore, ScriptedSource
from reflex_aio.testing.sources import Insert, MakeSource, SourceFeature, check_source, source_rules

__all__ = [
    "ContractBroken",
    "CursorStoreCall",
    "CursorStoreFeature",
    "Insert",
    "MakeCursorStore",
    "MakeSource",
    "ScriptedCursorStore",
    "ScriptedSource",
    "SourceFeature",
    "assert_events",
    "await_consumer",
    "await_cursor",
    "check_cursor_store",
    "check_source",
    "cursor_store_rules",
    "inserted_events",
    "read_events",
    "source_rules",
]
