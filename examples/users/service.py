"""The operations of the users service. Each inserts its event in the transaction of its change."""

from collections.abc import Sequence
from typing import Any

from examples.database import fetch
from examples.users.schema import UserEvent, user_events
from reflex_aio.sql import transaction


class TeamIsFull(Exception):
    """Raised when a team has fewer free seats than requested. The transaction is rolled back."""


class Users:
    """The users of the service.

    :param pool: connections to the database of the service
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def sign_up(self, team_id: int, email: str) -> int:
        """Sign up a user, and return its id.

        :raises TeamIsFull: if there is no free seat; the user and its event are rolled back
        """
        async with self._pool.acquire() as connection, transaction(connection):
            user_id = await _insert_user(connection, team_id, email)
            await user_events.insert(connection, user_id, UserEvent.SIGNED_UP)
            await _take_seats(connection, team_id, 1)
        return user_id

    async def sign_up_many(self, team_id: int, emails: Sequence[str]) -> list[int]:
        """Sign up several users, all or none, and return their ids.

        :raises TeamIsFull: if there are too few free seats
        """
        async with self._pool.acquire() as connection, transaction(connection):
            user_ids = [await _insert_user(connection, team_id, email) for email in emails]
            await user_events.insert_many(
                connection, [(user_id, UserEvent.SIGNED_UP) for user_id in user_ids]
            )
            await _take_seats(connection, team_id, len(user_ids))
        return user_ids

    async def change_email(self, user_id: int, email: str) -> None:
        """Change a user's email address."""
        async with self._pool.acquire() as connection, transaction(connection):
            await fetch(
                connection,
                "UPDATE users SET email = %s, version = version + 1 WHERE id = %s",
                email,
                user_id,
            )
            await user_events.insert(connection, user_id, UserEvent.EMAIL_CHANGED)


async def _insert_user(connection: Any, team_id: int, email: str) -> int:
    rows = await fetch(
        connection,
        "INSERT INTO users (team_id, email, version) VALUES (%s, %s, 1) RETURNING id",
        team_id,
        email,
    )
    return int(rows[0][0])


async def _take_seats(connection: Any, team_id: int, seats: int) -> None:
    await fetch(connection, "UPDATE teams SET free_seats = free_seats - %s WHERE id = %s", seats, team_id)
    rows = await fetch(connection, "SELECT free_seats FROM teams WHERE id = %s", team_id)
    if rows[0][0] < 0:
        raise TeamIsFull(f"team {team_id} has fewer than {seats} free seats")
