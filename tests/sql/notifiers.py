"""Notifiers with short timeouts, and recorders of their wake-ups and hooks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from reflex_aio.backoff import Backoff
from reflex_aio.hooks import Hooks
from reflex_aio.sql.wakeups.notify_session import NotifierTimeouts
from reflex_aio.sql.wakeups.postgres_notifier import PostgresNotifier
from tests.waiting import eventually

QUICK = NotifierTimeouts(idle=30.0, ping=0.1, answer=0.5, silent=0.3)


class Seen(Hooks):
    """Records the calls of a notifier's hooks."""

    def __init__(self) -> None:
        self.ready = self.lost = self.silent = self.failed = 0

    def listener_ready(self) -> None:
        self.ready += 1

    def listener_lost(self, error: BaseException, delay: float) -> None:
        self.lost += 1

    def listener_silent(self) -> None:
        self.silent += 1

    def notify_failed(self, error: BaseException) -> None:
        self.failed += 1


class Woken:
    """A wake function that counts, and can be waited for."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1

    async def more_than(self, count: int) -> None:
        await eventually(lambda: self.count > count, f"woken more than {count} times")


def notifier_to(dsn: str, hooks: Hooks | None = None, timeouts: NotifierTimeouts = QUICK) -> PostgresNotifier:
    return PostgresNotifier(
        lambda: asyncpg.connect(dsn, server_settings={"application_name": "notifier"}, timeout=1.0),
        hooks=hooks,
        timeouts=timeouts,
        backoff=Backoff(0.01, 0.1),
    )


@asynccontextmanager
async def listening(
    dsn: str, table: str = "public.t", **more: Any
) -> AsyncIterator[tuple[PostgresNotifier, Woken, Seen]]:
    """A notifier that listens, and receives the notifications of other processes for ``table``."""
    seen, woken = Seen(), Woken()
    async with notifier_to(dsn, seen, **more) as notifier:
        notifier.subscribe(table, woken)
        await eventually(lambda: seen.ready == 1, "the notifier listens")
        yield notifier, woken, seen
