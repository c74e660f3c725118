"""The package's front: its names, and what importing it does not load."""

import subprocess
import sys
from types import ModuleType

import pytest

import reflex_aio
from reflex_aio import (
    backoff,
    consumer,
    cursor,
    errors,
    event,
    hooks,
    memory,
    spec,
    stream,
    tasks,
)


def test_importing_the_package_loads_no_driver_and_no_grpc() -> None:
    foreign = (
        "asyncpg",
        "aiomysql",
        "asyncmy",
        "grpc",
        "google",
        "trio",
        "reflex_aio.sql",
        "reflex_aio.rpc",
        "reflex_aio.pb",
    )
    code = (
        "import reflex_aio, sys\n"
        f"print(*(n for n in sys.modules if any(n == f or n.startswith(f + '.') for f in {foreign})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_all_is_sorted_and_each_name_is_there() -> None:
    assert reflex_aio.__all__ == sorted(reflex_aio.__all__)
    assert len(set(reflex_aio.__all__)) == len(reflex_aio.__all__)
    for name in reflex_aio.__all__:
        assert hasattr(reflex_aio, name)


def test_all_names_everything_that_is_imported() -> None:
    imported = {
        name
        for name, value in vars(reflex_aio).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert imported == set(reflex_aio.__all__)


def test_names_of_the_front_are_few() -> None:
    assert len(reflex_aio.__all__) <= 32


def test_front_has_the_errors_of_streams_and_tables_and_the_module_has_all() -> None:
    assert {name for name in reflex_aio.__all__ if name in vars(errors)} <= set(errors.__all__)
    assert {name for name, value in vars(errors).items() if is_error(value)} == set(errors.__all__) - {
        "is_expected"
    }


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, errors.ReflexError)


@pytest.mark.parametrize(
    "module",
    [backoff, consumer, cursor, errors, event, hooks, memory, spec, stream, tasks],
    ids=lambda m: m.__name__,
)
def test_every_name_of_a_core_module_is_documented(module: ModuleType) -> None:
    assert module.__doc__
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value) and getattr(value, "__module__", "") == module.__name__:
            assert value.__doc__, name
            assert not value.__doc__.startswith(f"{name}("), f"{name}: a signature is no docstring"
