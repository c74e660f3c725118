"""A thousand and more gaps a second: the stream keeps up."""

import asyncio
from typing import Any

import pytest

from reflex_aio import Hooks
from reflex_aio.sql import EventsTable
from tests.gaps.interleaving import reading
from tests.gaps.mysql.interleaving import Writer, delivers_all

pytestmark = pytest.mark.asyncio

# As many transactions, in one statement.
ROLL_BACK = """
CREATE PROCEDURE roll_back(times int)
BEGIN
    DECLARE i int DEFAULT 0;
    WHILE i < times DO
        SET i = i + 1;
        START TRANSACTION;
        INSERT INTO events (foreign_id, type) VALUES ('rolled back', 1);
        ROLLBACK;
        IF MOD(i, 10) = 0 THEN
            INSERT INTO events (foreign_id, type) VALUES ('1', 1);
        END IF;
    END WHILE;
END
"""


async def test_a_thousand_rollbacks_a_second_are_kept_up_with(
    events: EventsTable, readers: Any, writer: Writer
) -> None:
    filled = 0

    class Seen(Hooks):
        def gap_filled(self, table: str, noops: int) -> None:
            nonlocal filled
            filled += noops

    await writer.run(ROLL_BACK)
    clock = asyncio.get_running_loop().time
    async with reading(events.replace(hooks=Seen()).stream(readers)) as reader:
        began = clock()
        await writer.run("CALL roll_back(3000)")
        seconds = clock() - began
        # It has as long again, however fast that was; and at least as long as a thousand a second take.
        await delivers_all(reader, writer, within=max(seconds, 3.0))
    assert filled == 3000
