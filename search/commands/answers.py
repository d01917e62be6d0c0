"""How commands answer: one JSON document, findings line by line, or a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.config.sections import StudyConfig
from search.display import terminal, wording
from search.errors import MachineError

_MARKS = {True: "✓", False: "✗", None: "–"}


def print_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Prints `document` on stdout.

    Raises:
        ValueError: it holds a number that JSON does not have.
    """
    print(json.dumps(document, indent=2, allow_nan=False))


def write(path: Path, text: str) -> None:
    """Writes `text` into `path`.

    Raises:
        MachineError: which file it is, too, that the disk does not take.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MachineError(f"{path}: {error.strerror}") from None


def note_lacking(config: StudyConfig) -> None:
    """Tells on stderr what of a space no microcontroller runs, where the limits are of one."""
    if config.lacking:
        terminal.note(wording.lacking(config.lacking))


def show_findings(findings: Sequence[Any], *, as_json: bool) -> None:
    """What `verify` or `doctor` found, with what mends it."""
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
        return
    for finding in findings:
        terminal.show(f"{_MARKS[finding.ok]} {finding.name}: {finding.detail}")
        if not finding.ok and getattr(finding, "mend", None):
            terminal.show(f"  try: {finding.mend}")
