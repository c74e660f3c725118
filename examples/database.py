"""How the examples run statements of their own, on each database that they can be shown with.

A service of yours has one database, and uses its client library as it is. That is all that differs here: the tables of
events and cursors take the connections and pools of each.
"""

import itertools
import re
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

__all__ = ["fetch"]


@singledispatch
async def fetch(connection: Any, statement: str, *arguments: object) -> Sequence[Sequence[Any]]:
    """Run a statement on an asyncpg, aiomysql or asyncmy connection, and return its rows; ``%s`` is an argument."""
    async with connection.cursor() as cursor:
        await cursor.execute(statement, arguments)
        rows: Sequence[Sequence[Any]] = await cursor.fetchall()
        return rows


@fetch.register(asyncpg.Connection)
@fetch.register(PoolConnectionProxy)
async def _(connection: Any, statement: str, *arguments: object) -> Sequence[Sequence[Any]]:
    numbers = itertools.count(1)
    rows: Sequence[Sequence[Any]] = await connection.fetch(
        re.sub("%s", lambda _: f"${next(numbers)}", statement), *arguments
    )
    return rows
