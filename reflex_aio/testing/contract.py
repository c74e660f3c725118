"""Contracts: rules that an implementation must keep, and a report of those that it breaks."""

from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from inspect import cleandoc
from typing import Any, Generic, TypeAlias, TypeVar

import anyio

from reflex_aio.stream import EventStream, Source

__all__ = [
    "Contract",
    "ContractBroken",
    "Stepped",
    "cancelled_at",
    "expect",
    "expect_refusal",
    "read_into",
    "rules_of",
]

Subject = TypeVar("Subject")
T = TypeVar("T")
Rule: TypeAlias = Callable[[Subject], Awaitable[None]]
Check = TypeVar("Check", bound=Callable[..., Awaitable[None]])

# The contract that each check function checks.
_contracts: "dict[object, Contract[Any]]" = {}


class ContractBroken(AssertionError):
    """Raised when an implementation breaks rules. The message gives, for each rule, the expected and the actual result.

    ``broken`` has the exception of each broken rule, by the rule's name.
    """

    def __init__(self, subject: str, broken: Mapping[str, Exception], promises: Mapping[str, str]) -> None:
        lines = "\n".join(
            f"- {name}: {promises[name]}\n  {_described(error)}".replace("\n", "\n  ")
            for name, error in broken.items()
        )
        super().__init__(f"{subject} breaks {len(broken)} of {len(promises)} rules:\n{lines}")
        self.broken: dict[str, Exception] = dict(broken)


@dataclass(frozen=True)
class _Rule(Generic[Subject]):
    check: Rule[Subject]
    promise: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Contract(Generic[Subject]):
    """Rules, in the order in which they are checked.

    :param subject: the implementation, such as ``"the source"``, for messages
    :param features: the features that an implementation may lack, and that some rules need
    """

    subject: str
    features: tuple[str, ...]
    _rules: dict[str, _Rule[Subject]] = field(default_factory=dict)

    def rule(self, *needs: str) -> Callable[[Rule[Subject]], Rule[Subject]]:
        """Add the decorated function as a rule, under its own name. Its docstring is the rule's promise.

        :param needs: the features that the rule needs
        """
        assert set(needs) <= set(self.features)

        def add(check: Rule[Subject]) -> Rule[Subject]:
            promise = " ".join(cleandoc(check.__doc__ or "").split())
            self._rules[check.__name__] = _Rule(check, promise, needs)
            return check

        return add

    def checked_by(self, check: Check) -> Check:
        """Register the decorated function as the one that checks this contract, for :func:`rules_of`."""
        _contracts[check] = self
        return check

    def promises(self, lacks: Collection[str]) -> dict[str, str]:
        """Return the promise of each rule by name, without the rules that need a feature in ``lacks``.

        :raises ValueError: if there is no such feature
        """
        for feature in lacks:
            if feature not in self.features:
                raise ValueError(
                    f"lacks {feature!r}: accepted are {', '.join(map(repr, self.features)) or 'none'}"
                )
        return {
            name: rule.promise
            for name, rule in self._rules.items()
            if not any(feature in lacks for feature in rule.needs)
        }

    async def check(
        self,
        make: Callable[[], AbstractAsyncContextManager[Subject]],
        *,
        lacks: Collection[str] = (),
        rules: Iterable[str] | None,
        within: float,
    ) -> None:
        """Check the rules, each on a subject of its own.

        :raises ContractBroken: if any rule is broken
        :raises ValueError: if there is no such rule or feature
        """
        promises = self.promises(lacks)
        if rules is not None:
            for name in (rules := list(rules)):
                if name not in promises:
                    raise ValueError(f"there is no rule {name!r}: accepted are {', '.join(promises)}")
            promises = {name: promises[name] for name in rules}
        broken: dict[str, Exception] = {}
        for name in promises:
            # An error while the subject is made or left is raised as it is, since no rule was checked.
            async with make() as subject:
                failure = await _failure(self._rules[name].check, subject, within)
            if failure is not None:
                broken[name] = failure
        if broken:
            failures = list(broken.values())
            cause = failures[0] if len(failures) == 1 else ExceptionGroup("all failures", failures)
            raise ContractBroken(self.subject, broken, promises) from cause


def rules_of(check: Callable[..., Awaitable[None]], *, lacks: Collection[str] = ()) -> dict[str, str]:
    """Return the promise of each rule by name, for one test per rule::

        @pytest.mark.parametrize("rule", rules_of(check_source))
        async def test_my_source(rule: str) -> None:
            await check_source(my_source, rules=[rule])

    :param check: a check function, such as :func:`~reflex_aio.testing.check_source`
    :param lacks: the features that the implementation lacks; rules that need them are left out
    :raises ValueError: if there is no such feature, or ``check`` is not a check function
    """
    if check not in _contracts:
        raise ValueError(f"check {check!r}: accepted are {', '.join(_name(each) for each in _contracts)}")
    return _contracts[check].promises(lacks)


def expect(what: str, actual: object, expected: object) -> None:
    """Compare a result with the expected one.

    :raises AssertionError: if they differ; the message has both
    """
    if actual != expected:
        raise AssertionError(f"{what}: expected {expected!r}, got {actual!r}")


class Stepped(Generic[T]):
    """Awaits ``work``, and calls ``cancel`` when it is about to wait for the ``step``-th time."""

    def __init__(self, work: Awaitable[T], step: int, cancel: Callable[[], object]) -> None:
        self._work = work
        self._step = step
        self._cancel = cancel
        self.cancelled = False

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._work.__await__()
        left = self._step
        resume: Callable[[], Any] = partial(next, steps)
        while True:
            try:
                wait = resume()
            except StopIteration as stop:
                result: T = stop.value
                return result
            left -= 1
            if left == 0:
                self.cancelled = True
                self._cancel()
            try:
                answer = yield wait
            except BaseException as exc:
                resume = partial(steps.throw, exc)
            else:
                resume = partial(steps.send, answer)


async def cancelled_at(step: int, work: Awaitable[object]) -> bool:
    """Run ``work``, and cancel it at its ``step``-th wait. Return whether it waited that often."""
    with anyio.CancelScope() as scope:
        await Stepped(work, step, scope.cancel)
    return scope.cancel_called


async def _failure(check: Rule[Subject], subject: Subject, within: float) -> Exception | None:
    try:
        with anyio.move_on_after(within) as limit:
            await check(subject)
        if limit.cancelled_caught:
            raise TimeoutError(f"not done within {within:g} s")
    except Exception as exc:
        return exc
    return None


def _described(error: Exception) -> str:
    if isinstance(error, AssertionError):
        return str(error)
    if isinstance(error, ExceptionGroup):
        return "; ".join(map(_described, error.exceptions))
    return f"{type(error).__name__}: {error}"


def _name(function: object) -> str:
    return getattr(function, "__name__", repr(function))


async def read_into(received: list[str], stream: EventStream, count: int | None = None) -> None:
    """Add the ids of the next events of ``stream`` to ``received``, until there are ``count``, or until it ends."""
    async for event in stream:
        received.append(event.id)
        if len(received) == count:
            return


async def expect_refusal(source: Source, within: float, cursor: str, *kinds: type[Exception]) -> None:
    """Check that a stream after ``cursor`` raises one of ``kinds`` within so many seconds."""
    expected = f"cursor {cursor!r}: expected {' or '.join(kind.__name__ for kind in kinds)}"
    try:
        async with source.stream(cursor) as stream:
            with anyio.move_on_after(within):
                raise AssertionError(f"{expected}, got {await anext(stream, 'the end')!r}")
    except kinds:
        return
    raise AssertionError(f"{expected}, got a stream that waits")
