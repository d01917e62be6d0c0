"""What the dashboard's room takes without a promise: an upgrade that moves it fails here."""

from __future__ import annotations

import optuna
import optuna_dashboard
import pytest
from optuna_dashboard import get_note, save_note

from search.display.dashboard.internals import note_entries, note_prefix
from search.storage.internals import storage_of, study_id, trial_id
from tests.pages import ROOT


@pytest.mark.parametrize("body", ["short", "long " * 2_000], ids=len)
def test_a_note_is_what_the_dashboard_would_have_written(body: str) -> None:
    study = optuna.create_study()
    trial = study.ask()
    save_note(trial, body)
    key = trial_id(trial)
    written = storage_of(study).get_study_system_attrs(study_id(study))
    assert note_entries(key, body) == written
    assert get_note(trial) == body
    assert all(name.startswith(note_prefix(key)) for name in written)


def test_this_release_is_one_that_was_tested() -> None:
    assert optuna_dashboard.__version__.startswith("0.21.")
    assert '"optuna-dashboard==0.21.*"' in (ROOT / "pyproject.toml").read_text()
