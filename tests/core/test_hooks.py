"""Hooks are a process's, unless an object is given its own; by themselves they do nothing."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from reflex_aio import Consumer, Event, Hooks, Spec
from reflex_aio.hooks import combined, install, installed
from reflex_aio.memory import MemoryCursorStore, MemoryEvents


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = installed()
    yield
    install(before)


async def ignore(event: Event) -> None: ...


def spec(hooks: Hooks | None = None) -> Spec:
    return Spec(MemoryEvents(), MemoryCursorStore(), Consumer("c", ignore), hooks=hooks)


def test_install_returns_those_used_until_now() -> None:
    first, second = Hooks(), Hooks()
    before = install(first)
    assert type(before) is Hooks
    assert install(second) is first
    assert installed() is second


def test_objects_keep_the_hooks_installed_when_they_were_made() -> None:
    first, second = Hooks(), Hooks()
    install(first)
    made = spec()
    install(second)
    assert made.hooks is first
    assert spec().hooks is second


def test_hooks_given_to_an_object_go_before_those_installed() -> None:
    own = Hooks()
    install(Hooks())
    assert spec(own).hooks is own


def test_every_hook_does_nothing_by_itself() -> None:
    methods = inspect.getmembers(Hooks(), inspect.ismethod)
    assert len(methods) >= 15
    for name, method in methods:
        arguments = inspect.signature(method).parameters.values()
        positional = [None for a in arguments if a.kind is a.POSITIONAL_OR_KEYWORD]
        keywords = {a.name: None for a in arguments if a.kind is a.KEYWORD_ONLY}
        if name == "handling":
            with method("c", []) as nothing:
                assert nothing is None
        else:
            assert method(*positional, **keywords) is None, name


class Told(Hooks):
    """Writes down some of what it is told."""

    def __init__(self, log: list[str], name: str, trace: bytes | None = None) -> None:
        self._log, self._name, self._trace = log, name, trace

    def event_skipped(self, consumer: str, event: Event) -> None:
        self._log.append(f"{self._name}: {consumer} skipped")

    def consumer_started(self, consumer: str, *, lag_alert: float | None, activity_ttl: float | None) -> None:
        self._log.append(f"{self._name}: {lag_alert} {activity_ttl}")

    def current_trace(self) -> bytes | None:
        return self._trace

    @contextmanager
    def handling(self, consumer: str, events: Sequence[Event]) -> Iterator[None]:
        self._log.append(f"{self._name} in")
        try:
            yield
        finally:
            self._log.append(f"{self._name} out")


class Deaf(Hooks):
    """Listens to something else."""

    def cursor_set(self, table: str) -> None:
        pass


EVENT = Event("1", 1, "1", 0)


def test_combined_hooks_are_all_told_in_order() -> None:
    log: list[str] = []
    hooks = combined(Told(log, "a"), Deaf(), combined(Told(log, "b"), Told(log, "c")))
    hooks.event_skipped("x", EVENT)
    hooks.consumer_started("x", lag_alert=1.0, activity_ttl=None)
    told = ["x skipped", "1.0 None"]
    assert log == [f"{name}: {words}" for words in told for name in "abc"]


def test_combined_contexts_are_left_in_the_opposite_order_with_what_was_raised() -> None:
    log: list[str] = []
    hooks = combined(Told(log, "a"), Deaf(), Told(log, "b"))
    with pytest.raises(ValueError, match="bad luck"), hooks.handling("x", [EVENT]):
        raise ValueError("bad luck")
    assert log == ["a in", "b in", "b out", "a out"]


def test_of_combined_traces_the_first_counts() -> None:
    assert combined(Deaf(), Told([], "a"), Told([], "b", b"b"), Told([], "c", b"c")).current_trace() == b"b"
    assert combined(Deaf(), Told([], "a")).current_trace() is None


def test_combining_none_makes_idle_hooks() -> None:
    hooks = combined()
    assert hooks.current_trace() is None
    with hooks.handling("x", [EVENT]):
        hooks.event_skipped("x", EVENT)
