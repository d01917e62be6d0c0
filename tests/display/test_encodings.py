from __future__ import annotations

import io

import pytest

from search.display import encodings, terminal


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_what_holds_and_what_does_not_differ_in_every_encoding(encoding: str) -> None:
    raw = io.BytesIO()
    output = terminal.console(io.TextIOWrapper(raw, encoding=encoding))
    output.print("✓ held ✗ broken – unknown")
    output.file.flush()
    held, broken, unknown = raw.getvalue().decode(encoding).split()[::2]
    assert len({held, broken, unknown}) == 3
    assert "?" not in held + broken + unknown


def test_each_character_is_one_so_that_columns_stay() -> None:
    text = f"{terminal.SPARKS} ✓✗–·×±…→ 語"
    told = text.encode("ascii", errors=encodings.ERRORS).decode()
    assert len(told) == len(text)
    assert told.startswith("12345678 ")
    assert told.endswith(" ?")


def test_the_end_of_a_bar_is_drawn_as_the_bar_is() -> None:
    told = "█▏▎▍▌▋▊▉".encode("ascii", errors=encodings.ERRORS).decode()
    assert told.isdecimal()


def test_reading_is_not_guessed() -> None:
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("utf-8", errors=encodings.ERRORS)
