"""Simulated use of the users service: users sign up, alone and in groups, and change their addresses."""

import asyncio
from collections.abc import Iterator
from itertools import islice
from random import Random

from examples.users.service import TeamIsFull, Users

_WRITERS = 8
_GROUP = 5


class Traffic:
    """Concurrent writers, which run until a number of users have tried to sign up.

    :param teams: the ids of the teams to join
    :param users: the number of users who try to sign up
    :param seed: the seed of the random numbers
    :param seconds: the approximate duration
    """

    def __init__(self, service: Users, *, teams: list[int], users: int, seed: int, seconds: float) -> None:
        self._service = service
        self._teams = teams
        self._users = users
        self._seed = seed
        self._pause = seconds * _WRITERS / users
        self.tried = 0
        self.rolled_back = 0

    @property
    def progress(self) -> float:
        """The part of the work that is done, from 0 to 1."""
        return self.tried / self._users

    async def run(self) -> None:
        """Run all writers to their end."""
        names = (f"user{number}" for number in range(1, self._users + 1))
        async with asyncio.TaskGroup() as group:
            for writer in range(_WRITERS):
                group.create_task(self._write(Random(f"{self._seed} {writer}"), names))

    async def _write(self, random: Random, names: Iterator[str]) -> None:
        for name in names:
            group = [name]
            if random.random() < 0.1:
                group += islice(names, _GROUP - 1)
            await self._sign_up(random, group)
            await asyncio.sleep(random.expovariate(1 / self._pause) * len(group))

    async def _sign_up(self, random: Random, group: list[str]) -> None:
        team = random.choice(self._teams)
        emails = [f"{name}@example.com" for name in group]
        try:
            if len(group) > 1:
                ids = await self._service.sign_up_many(team, emails)
            else:
                ids = [await self._service.sign_up(team, emails[0])]
        except TeamIsFull:
            self.rolled_back += 1
        else:
            if random.random() < 0.25:
                await self._service.change_email(ids[0], f"{group[0]}@example.org")
        self.tried += len(group)
