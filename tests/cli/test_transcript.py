"""docs/cli_transcript.md contains the current output of the commands."""

import pytest

from tests.cli.transcript import DOCUMENT, transcript


@pytest.mark.asyncio
@pytest.mark.extended
async def test_the_transcript_is_the_current_output_of_the_commands() -> None:
    # `make transcript` regenerates it.
    assert await transcript() == DOCUMENT.read_text()
