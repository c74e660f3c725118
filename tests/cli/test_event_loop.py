"""The event loop of a command."""

import asyncio
import sys

import pytest

from reflex_aio.cli.command import command, service


async def print_loop() -> None:
    print(type(asyncio.get_running_loop()).__module__.split(".")[0])


def test_a_service_runs_on_uvloop_if_it_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    service(print_loop)()
    assert capsys.readouterr().out == "uvloop\n"


def test_a_service_runs_on_asyncio_without_uvloop(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Makes its import fail.
    monkeypatch.setitem(sys.modules, "uvloop", None)
    service(print_loop)()
    assert capsys.readouterr().out == "asyncio\n"


def test_other_commands_run_on_asyncio(capsys: pytest.CaptureFixture[str]) -> None:
    command(print_loop)()
    assert capsys.readouterr().out == "asyncio\n"
