"""How commands answer: one JSON document, or findings line by line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from search.config.sections import StudyConfig
from search.display import terminal, wording

_MARKS = {True: "✓", False: "✗", None: "–"}


def print_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Prints `document` on stdout.

    Raises:
        ValueError: it holds a number that JSON does not have.
    """
    print(json.dumps(document, indent=2, allow_nan=False))


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
