"""docs/cli_transcript.md is what the commands write."""

import pytest

from tests.cli.transcript import DOCUMENT, transcript


@pytest.mark.asyncio
async def test_the_transcript_is_what_the_commands_write_now() -> None:
    # `make transcript` writes it anew.
    assert await transcript() == DOCUMENT.read_text()
