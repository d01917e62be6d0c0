"""What is told when a command ends."""

from __future__ import annotations

import pytest

from run_study import run
from search.errors import printable


def test_nothing_that_a_terminal_obeys_is_shown() -> None:
    shown = printable("a\x1b[31m\x07\r\n\x9b\u202e\u2028é✓ ")
    assert shown == "a\\x1b[31m\\x07\\r\\n\\x9b\\u202e\\u2028é✓ "


@pytest.mark.parametrize("command", ["verify", "launch", "check"])
def test_a_name_from_outside_is_told_in_plain_characters(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, "a\x1b]0;owned\x07"]) == 2
    told = capsys.readouterr().err
    assert "a\\x1b]0;owned\\x07" in told
    assert told.removesuffix("\n").isprintable()
