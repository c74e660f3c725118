"""Execution of the examples' own statements, on every database that they support.

A real service has one database, and uses its client library directly. Only the examples' own statements need this; the
tables of events and cursors accept the connections and pools of every client library.
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
    """Run a statement on an asyncpg, aiomysql or asyncmy connection, and return its rows; ``%s`` is a placeholder."""
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
