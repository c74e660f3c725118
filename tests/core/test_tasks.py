"""Background tasks end with their owner, and clean-up ends whatever cancels it."""

import asyncio
import logging

import anyio
import pytest

from reflex_aio.tasks import Tasks, is_cancelling, pending_cancellations, shielded
from tests.waiting import eventually

asyncio_only = pytest.mark.asyncio


class Work:
    """Waits until it is cancelled, and then for ``ending``."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.ending = asyncio.Event()
        self.ended = False

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
            await self.ending.wait()
            self.ended = True


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


# Tasks.


@asyncio_only
async def test_task_gives_its_result_to_who_awaits_it() -> None:
    async def seven() -> int:
        return 7

    tasks = Tasks()
    task = tasks.start(seven(), name="seven")
    assert task.get_name() == "seven"
    assert await task == 7
    await tasks.aclose()


@asyncio_only
async def test_failure_of_a_task_is_logged_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise OSError("lost")

    tasks = Tasks()
    task = tasks.start(fail(), name="listener")
    with pytest.raises(OSError, match="lost"):
        await task
    await tasks.aclose()
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "background task listener failed")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], OSError)


@asyncio_only
async def test_closing_cancels_the_tasks_and_waits_until_they_ended(caplog: pytest.LogCaptureFixture) -> None:
    tasks, work = Tasks(), Work()
    tasks.start(work(), name="work")
    await work.begun.wait()
    closing = asyncio.create_task(tasks.aclose())
    await work.cancelled.wait()
    assert not closing.done()
    work.ending.set()
    await closing
    assert work.ended
    assert caplog.records == []


@asyncio_only
async def test_closing_without_tasks_and_closing_twice_is_fine() -> None:
    tasks = Tasks()
    await tasks.aclose()
    tasks.start(wait_for_ever(), name="work")
    await tasks.aclose()
    await tasks.aclose()


@asyncio_only
async def test_tasks_may_be_started_again_after_closing() -> None:
    tasks = Tasks()
    await tasks.aclose()
    task = tasks.start(wait_for_ever(), name="work")
    await tasks.aclose()
    assert task.cancelled()


@asyncio_only
async def test_closing_that_is_cancelled_waits_all_the_same() -> None:
    tasks, work = Tasks(), Work()
    tasks.start(work(), name="work")
    await work.begun.wait()
    closing = asyncio.create_task(tasks.aclose())
    await work.cancelled.wait()
    for _ in range(3):
        closing.cancel()
        await asyncio.sleep(0)
        assert not closing.done()
    work.ending.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert work.ended


@asyncio_only
async def test_closing_in_a_cancelled_scope_waits_without_spinning() -> None:
    tasks, work = Tasks(), Work()
    tasks.start(work(), name="work")
    await work.begun.wait()

    async def let_it_end() -> None:
        await work.cancelled.wait()
        work.ending.set()

    ender = asyncio.create_task(let_it_end())
    with anyio.CancelScope() as scope:
        scope.cancel()
        await tasks.aclose()
        assert work.ended
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    await ender


@asyncio_only
async def test_task_that_is_started_while_another_ends_is_ended_too() -> None:
    tasks = Tasks()
    begun = asyncio.Event()
    started: list[asyncio.Task[None]] = []

    async def start_another() -> None:
        begun.set()
        try:
            await wait_for_ever()
        finally:
            started.append(tasks.start(wait_for_ever(), name="another"))

    tasks.start(start_another(), name="first")
    await begun.wait()
    await tasks.aclose()
    assert started[0].cancelled()


@asyncio_only
async def test_task_may_close_its_own_siblings_and_goes_on() -> None:
    tasks, work = Tasks(), Work()
    tasks.start(work(), name="work")
    await work.begun.wait()
    work.ending.set()

    async def close_the_others() -> bool:
        await tasks.aclose()
        return work.ended

    assert await tasks.start(close_the_others(), name="closer") is True


@asyncio_only
async def test_two_tasks_that_close_their_siblings_at_once_do_not_wait_for_each_other_for_ever() -> None:
    tasks = Tasks()
    go = asyncio.Event()

    async def close_the_others() -> None:
        await go.wait()
        await tasks.aclose()

    closers = [tasks.start(close_the_others(), name="closer") for _ in range(2)]
    await asyncio.sleep(0)
    go.set()
    await eventually(lambda: all(closer.done() for closer in closers), "the closers ended")
    await tasks.aclose()


@asyncio_only
async def test_owner_and_task_may_close_at_once() -> None:
    tasks, work = Tasks(), Work()
    tasks.start(work(), name="work")
    await work.begun.wait()
    closer = tasks.start(tasks.aclose(), name="closer")
    await work.cancelled.wait()
    closing = asyncio.create_task(tasks.aclose())
    await eventually(closer.done, "the closer ended")
    assert not closing.done()
    work.ending.set()
    await closing
    assert work.ended


# Clean-up.


@pytest.mark.anyio
async def test_shielded_work_gives_its_result_or_error() -> None:
    async def seven() -> int:
        await anyio.lowlevel.checkpoint()
        return 7

    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise OSError("lost")

    assert await shielded(seven()) == 7
    with pytest.raises(OSError, match="lost"):
        await shielded(fail())


@pytest.mark.anyio
async def test_shielded_work_ends_in_a_cancelled_scope() -> None:
    ended = False

    async def work() -> None:
        nonlocal ended
        await anyio.sleep(0.01)
        ended = True

    with anyio.CancelScope() as scope:
        scope.cancel()
        await shielded(work())
        assert ended
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught


@asyncio_only
async def test_shielded_work_ends_however_often_its_caller_is_cancelled() -> None:
    work = Work()

    async def clean_up() -> None:
        work.begun.set()
        await work.ending.wait()
        work.ended = True

    caller = asyncio.create_task(shielded(clean_up()))
    await work.begun.wait()
    for _ in range(3):
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
    work.ending.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.ended


@asyncio_only
async def test_failure_of_shielded_work_is_logged_if_a_cancellation_goes_before_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, ending = asyncio.Event(), asyncio.Event()

    async def clean_up() -> None:
        begun.set()
        await ending.wait()
        raise OSError("lost")

    caller = asyncio.create_task(shielded(clean_up()))
    await begun.wait()
    caller.cancel()
    ending.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["lost"]


# Whose cancellation it is.


@asyncio_only
async def test_cancellation_that_was_asked_for_is_told_from_one_that_comes_from_below() -> None:
    told: list[bool] = []

    async def met_below() -> None:
        try:
            raise asyncio.CancelledError
        except asyncio.CancelledError:
            told.append(is_cancelling())

    async def asked() -> None:
        try:
            await wait_for_ever()
        finally:
            told.append(is_cancelling())

    await asyncio.create_task(met_below())
    task = asyncio.create_task(asked())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == [False, True]


@pytest.mark.anyio
async def test_no_cancellation_was_asked_for_where_there_was_none() -> None:
    assert pending_cancellations() == 0
    assert not is_cancelling()
