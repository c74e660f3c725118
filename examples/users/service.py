"""What the users service does: each change inserts its event in the transaction that makes it."""

from collections.abc import Sequence
from typing import Any

import asyncpg

from examples.users.schema import UserEvent, user_events


class TeamIsFull(Exception):
    """Raised when a team has fewer free seats than are asked for. Nothing has changed then."""


class Users:
    """The users, and what can be done with them.

    :param pool: leads to the database of the service
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def sign_up(self, team_id: int, email: str) -> int:
        """Sign up a user, and return its id.

        :raises TeamIsFull: if there is no seat left; the user is rolled back then, and its event with it
        """
        async with self._pool.acquire() as connection, connection.transaction():
            user_id: int = await connection.fetchval(
                "INSERT INTO users (team_id, email) VALUES ($1, $2) RETURNING id", team_id, email
            )
            await user_events.insert(connection, user_id, UserEvent.SIGNED_UP)
            await _take_seats(connection, team_id, 1)
        return user_id

    async def sign_up_many(self, team_id: int, emails: Sequence[str]) -> list[int]:
        """Sign up users, all of them or none, and return their ids.

        :raises TeamIsFull: if there are too few seats
        """
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(
                "INSERT INTO users (team_id, email) SELECT $1, unnest($2::text[]) RETURNING id",
                team_id,
                emails,
            )
            user_ids = [row["id"] for row in rows]
            await user_events.insert_many(
                connection, [(user_id, UserEvent.SIGNED_UP) for user_id in user_ids]
            )
            await _take_seats(connection, team_id, len(user_ids))
        return user_ids

    async def change_email(self, user_id: int, email: str) -> None:
        """Change a user's address."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "UPDATE users SET email = $2, version = version + 1 WHERE id = $1", user_id, email
            )
            await user_events.insert(connection, user_id, UserEvent.EMAIL_CHANGED)


async def _take_seats(connection: Any, team_id: int, seats: int) -> None:
    try:
        await connection.execute(
            "UPDATE teams SET free_seats = free_seats - $2 WHERE id = $1", team_id, seats
        )
    except asyncpg.CheckViolationError as exc:
        raise TeamIsFull(f"team {team_id} has no {seats} seats left") from exc
