"""eventsourcing: the subscription of its PostgreSQL recorder, over psycopg and threads."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.conninfo import conninfo_to_dict

from benchmarks.peers.base import Handle, Peer, Publish

__all__ = ["Eventsourcing"]


class Eventsourcing(Peer):
    """Events of aggregates. The subscription stores no position, so it is compared with write-behind cursors."""

    name = "eventsourcing"

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self._consumed = 0

    def _recorder(self) -> PostgresApplicationRecorder:
        given = conninfo_to_dict(self.dsn)
        datastore = PostgresDatastore(
            str(given["dbname"]),
            str(given["host"]),
            str(given.get("port", "")),
            str(given["user"]),
            str(given.get("password", "")),
            pool_size=4,
        )
        return PostgresApplicationRecorder(datastore, events_table_name="stored_events")

    async def install(self) -> None:
        recorder = self._recorder()
        try:
            await asyncio.to_thread(recorder.create_table)
        finally:
            recorder.datastore.close()

    @asynccontextmanager
    async def publisher(self) -> AsyncIterator[Publish]:
        recorder = self._recorder()

        def insert(row: int) -> None:
            event = StoredEvent(
                originator_id=uuid4(), originator_version=1, topic="changed", state=str(row).encode()
            )
            recorder.insert_events([event])

        async def publish(row: int) -> None:
            await asyncio.to_thread(insert, row)

        try:
            yield publish
        finally:
            recorder.datastore.close()

    @asynccontextmanager
    async def consumer(self, handle: Handle) -> AsyncIterator[None]:
        recorder = self._recorder()

        def consume() -> None:
            for notification in subscription:
                self._consumed = notification.id
                handle()

        try:
            with recorder.subscribe(gt=self._consumed or None) as subscription:
                thread = threading.Thread(target=consume)
                thread.start()
                try:
                    yield
                finally:
                    subscription.stop()
                    await asyncio.to_thread(thread.join)
        finally:
            recorder.datastore.close()
