"""Rules that an implementation has to keep, and the report of those that it breaks."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from inspect import cleandoc
from typing import Generic, TypeVar

import anyio

__all__ = ["Contract", "ContractBroken", "expect"]

Subject = TypeVar("Subject")
Check = Callable[[Subject], Awaitable[None]]


class ContractBroken(AssertionError):
    """Raised when an implementation breaks rules; the message tells each, what it expected and what came.

    ``broken`` has, by the name of each broken rule, the exception that showed it.
    """

    def __init__(self, what: str, broken: Mapping[str, Exception], promises: Mapping[str, str]) -> None:
        told = "\n".join(
            f"- {name}: {promises[name]}\n  {_told(error)}".replace("\n", "\n  ")
            for name, error in broken.items()
        )
        super().__init__(f"{what} breaks {len(broken)} of {len(promises)} rules:\n{told}")
        self.broken: dict[str, Exception] = dict(broken)


@dataclass(frozen=True)
class _Rule(Generic[Subject]):
    check: Check[Subject]
    promise: str
    needs: str | None


@dataclass(frozen=True)
class Contract(Generic[Subject]):
    """Rules, in the order in which they are checked.

    :param what: what keeps them, as ``"the source"``
    :param features: what not every implementation has, and some rules need
    """

    what: str
    features: tuple[str, ...]
    _rules: dict[str, _Rule[Subject]] = field(default_factory=dict)

    def rule(self, needs: str | None = None) -> Callable[[Check[Subject]], Check[Subject]]:
        """Add the decorated check, under its own name; its docstring is what the rule promises."""
        assert needs is None or needs in self.features

        def add(check: Check[Subject]) -> Check[Subject]:
            promise = " ".join(cleandoc(check.__doc__ or "").split())
            self._rules[check.__name__] = _Rule(check, promise, needs)
            return check

        return add

    def promises(self, lacks: Collection[str]) -> dict[str, str]:
        """Return what each rule promises, by its name, but for those that need what is lacking.

        :raises ValueError: if there is no such feature
        """
        for feature in lacks:
            if feature not in self.features:
                raise ValueError(f"lacks {feature!r}: accepted are {', '.join(map(repr, self.features))}")
        return {name: rule.promise for name, rule in self._rules.items() if rule.needs not in lacks}

    async def check(
        self,
        make: Callable[[], AbstractAsyncContextManager[Subject]],
        *,
        lacks: Collection[str],
        rules: Iterable[str] | None,
        within: float,
    ) -> None:
        """Check the rules, each on a subject of its own.

        :raises ContractBroken: if any is broken
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
            # What raises when it is made or left wasn't tested, so that is no broken rule.
            async with make() as subject:
                failure = await _failure(self._rules[name].check, subject, within)
            if failure is not None:
                broken[name] = failure
        if broken:
            failures = list(broken.values())
            cause = failures[0] if len(failures) == 1 else ExceptionGroup("all that was met", failures)
            raise ContractBroken(self.what, broken, promises) from cause


def expect(what: str, came: object, expected: object) -> None:
    """Raise unless ``came`` is what was expected.

    :raises AssertionError: with both
    """
    if came != expected:
        raise AssertionError(f"{what}: expected {expected!r}, came {came!r}")


async def _failure(check: Check[Subject], subject: Subject, within: float) -> Exception | None:
    try:
        with anyio.move_on_after(within) as limit:
            await check(subject)
        if limit.cancelled_caught:
            raise TimeoutError(f"not done within {within:g} s")
    except Exception as exc:
        return exc
    return None


def _told(error: Exception) -> str:
    if isinstance(error, AssertionError):
        return str(error)
    if isinstance(error, ExceptionGroup):
        return "; ".join(map(_told, error.exceptions))
    return f"{type(error).__name__}: {error}"
