"""Hooks are a process's, unless an object is given its own; by themselves they do nothing."""

import inspect
from collections.abc import Iterator

import pytest

from reflex_aio import Consumer, Event, Hooks, MemoryCursorStore, MemoryEvents, Spec
from reflex_aio.hooks import install, installed


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
        assert method(*positional, **keywords) is None, name
