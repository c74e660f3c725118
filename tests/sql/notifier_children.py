"""What child processes of the tests of notifiers do. Some of them can't import pytest."""

import asyncio
import os

import asyncpg

from reflex_aio.sql.drivers.asyncpg import AsyncpgDriver
from reflex_aio.sql.wakeups.postgres_notifier import PostgresNotifier, notifier_of
from tests.waiting import deadline

driver = AsyncpgDriver()


async def answer(dsn: str) -> None:
    """Wait for a notification of ``public.question``, and answer it."""
    connection = await asyncpg.connect(dsn)
    notifier = await notifier_of(driver, connection)
    question = asyncio.Event()
    notifier.subscribe("public.question", question.set)
    # The first wake-up proves that the notifier listens.
    await question.wait()
    question.clear()
    print("ready", flush=True)
    await question.wait()
    print("woken", flush=True)
    notifier.notify("public.t")
    await connection.close()
    await asyncio.Event().wait()


def insert(dsn: str, ending: str) -> None:
    """Do what an insert does, and end without closing any notifier."""

    async def main() -> None:
        # On a busy machine a step may take longer than asyncio's debug mode lets pass in silence.
        asyncio.get_running_loop().slow_callback_duration = 60.0
        connection = await asyncpg.connect(dsn)
        if ending == "with a stream":
            notifier, listening = await notifier_of(driver, connection), asyncio.Event()
            notifier.subscribe("public.t", listening.set)
            await listening.wait()
        async with connection.transaction():
            notifier = await notifier_of(driver, connection)
            driver.after_transaction(connection, "public.t", lambda: notifier.notify("public.t"))
        await connection.close()
        if ending == "in an error":
            raise ZeroDivisionError

    try:
        asyncio.run(main(), debug=True)
    except ZeroDivisionError:
        assert ending == "in an error"


def fork(dsn: str) -> None:
    """Fork while a notifier listens, and use the very same one in both processes afterwards."""
    notifier = PostgresNotifier(lambda: asyncpg.connect(dsn))

    async def parent() -> None:
        woken = asyncio.Event()
        notifier.subscribe("public.back", woken.set)
        await woken.wait()
        woken.clear()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio.run(child())
                status = 0
            finally:
                os._exit(status)
        # Sent by the child, with the parameters of the parent's connection.
        async with asyncio.timeout(deadline(10)):
            await woken.wait()
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert status == 0
        notifier.notify("public.parent")

    async def child() -> None:
        woken = asyncio.Event()
        notifier.subscribe("public.child", woken.set)
        await woken.wait()
        notifier.notify("public.child")
        notifier.notify("public.back")

    asyncio.run(parent())
