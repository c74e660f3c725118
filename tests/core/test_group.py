"""A group ends at its first failure, and raises that."""

import anyio
import pytest
from anyio.lowlevel import checkpoint

from reflex_aio.tasks import Group

pytestmark = pytest.mark.anyio


async def test_work_is_awaited_and_what_it_started_is_cancelled() -> None:
    log: list[str] = []
    group = Group("c")

    async def beside(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append(f"{name} ended")

    async def work() -> None:
        group.start(beside, "one")
        group.start(beside, "two")
        await anyio.wait_all_tasks_blocked()
        log.append("work done")

    await group.run(work)
    assert log[0] == "work done"
    assert sorted(log[1:]) == ["one ended", "two ended"]


@pytest.mark.parametrize("error", [ValueError("x"), ExceptionGroup("x", [ValueError("y")]), SystemExit(3)])
async def test_failure_beside_ends_the_work_and_comes_out_as_it_is(error: BaseException) -> None:
    group = Group("c")

    async def fail() -> None:
        await checkpoint()
        raise error

    async def work() -> None:
        group.start(fail)
        await anyio.sleep_forever()

    with pytest.raises(type(error)) as caught:
        await group.run(work)
    assert caught.value is error


async def test_second_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    group = Group("c")

    async def fail_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("second")

    async def work() -> None:
        group.start(fail_when_cancelled)
        await anyio.wait_all_tasks_blocked()
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        await group.run(work)
    [record] = caplog.records
    assert record.getMessage() == "consumer c: another error"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "second"


async def test_what_is_started_just_before_a_failure_does_not_begin() -> None:
    group = Group("c")
    begun = False

    async def begin() -> None:
        nonlocal begun
        begun = True

    async def work() -> None:
        group.start(begin)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        await group.run(work)
    assert not begun


async def test_cancellation_from_outside_is_no_failure() -> None:
    group = Group("c")

    async def work() -> None:
        group.start(anyio.sleep_forever)
        scope.cancel()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await group.run(work)
    assert scope.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("beside", [False, True])
async def test_cancellation_that_nobody_asked_for_is_a_failure(beside: bool) -> None:
    group = Group("c")
    cancelled = anyio.get_cancelled_exc_class()

    async def fail() -> None:
        await checkpoint()
        raise cancelled

    async def work() -> None:
        if not beside:
            await fail()
        group.start(fail)
        await anyio.sleep_forever()

    with pytest.raises(cancelled):
        await group.run(work)
