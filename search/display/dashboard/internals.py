"""What this room uses of optuna-dashboard that it does not promise; nothing else here does.

`tests/display/dashboard/test_internals.py` holds it against what is public; `pyproject.toml`
allows only releases on which that test has passed.
"""

from __future__ import annotations

from typing import Any

from optuna_dashboard._note import note_ver_key, split_body


def note_prefix(trial_id: int | str) -> str:
    """How the names begin under which a study's system attributes hold a trial's note."""
    return f"dashboard:{trial_id}:note_"


def note_entries(trial_id: int, body: str) -> dict[str, Any]:
    """The system attributes of a study that are the first note of a trial.

    `save_note` makes them too, but reads the notes of all trials first, and twice.
    """
    return {note_ver_key(trial_id): 1, **split_body(body, trial_id)}
