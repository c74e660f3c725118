"""Which event loop a command is on."""

import asyncio
import sys

import pytest

from reflex_aio.cli.command import command, service


async def tell() -> None:
    print(type(asyncio.get_running_loop()).__module__.split(".")[0])


def test_a_service_is_on_uvloop_where_that_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    service(tell)()
    assert capsys.readouterr().out == "uvloop\n"


def test_a_service_is_on_asyncios_loop_where_it_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What makes an import of it fail.
    monkeypatch.setitem(sys.modules, "uvloop", None)
    service(tell)()
    assert capsys.readouterr().out == "asyncio\n"


def test_other_commands_are_on_asyncios_loop(capsys: pytest.CaptureFixture[str]) -> None:
    command(tell)()
    assert capsys.readouterr().out == "asyncio\n"
