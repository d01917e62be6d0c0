from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState
from optuna_dashboard import get_note, save_note
from optuna_dashboard._note import get_note_from_system_attrs

from search.display.dashboard.annotation import write_note
from search.display.dashboard.browsed import Browsed, Unnoted
from search.storage.internals import storage_of, study_id, trial_id
from search.storage.studies import load_study
from tests.processes import ask, created


@pytest.fixture
def study(sqlite: str) -> optuna.Study:
    study = created(sqlite, trials=1_000)
    for number in range(12):
        study.add_trial(optuna.create_trial(value=0.01 * (number if number != 3 else 99)))
        write_note(study, number + 1, f"note of {number} " + "x" * 3_000)
    return study


def _noted(browsed: Browsed) -> list[int]:
    (found,) = browsed.get_all_studies()
    notes = [get_note_from_system_attrs(found.system_attrs, key)["body"] for key in range(1, 13)]
    return [int(note.split()[2]) for note in notes if note]


def test_a_short_study_keeps_all_its_notes(study: optuna.Study) -> None:
    assert _noted(Browsed(study)) == list(range(12))


def test_a_long_one_keeps_those_of_the_best_and_the_latest(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.display.dashboard.browsed.NOTES", 4 * 12)
    study.add_trial(optuna.create_trial(state=TrialState.FAIL))
    assert set(_noted(Browsed(study))) == {3, 11}
    monkeypatch.setattr("search.display.dashboard.browsed.NOTES", 6 * 13)
    assert set(_noted(Browsed(study))) == {3, 11, 10}


def test_of_the_notes_of_other_studies_none_is_lost(study: optuna.Study, sqlite: str) -> None:
    other = created(sqlite, name="other")
    other.add_trial(optuna.create_trial(value=0.5))
    write_note(other, trial_id(other.trials[0]), "of another")
    other.set_user_attr("mine", {"of": "a user"})
    names = {found.study_name: found for found in Browsed(study).get_all_studies()}
    assert list(names) == ["toy", "other"]
    note = get_note_from_system_attrs(names["other"].system_attrs, trial_id(other.trials[0]))
    assert note["body"] == "of another"
    assert names["other"].user_attrs == {"mine": {"of": "a user"}}, "but for what is ours"
    assert names["toy"].user_attrs == {}
    for mine, frozen in zip((study, other), names.values(), strict=True):
        assert frozen.directions == mine.directions


def test_what_runs_is_read_again_and_bulk_stays_here(study: optuna.Study, sqlite: str) -> None:
    browsed = Browsed(study)
    other = load_study("toy", sqlite)
    running, second = ask(other), ask(other)
    running.set_user_attr("history", [])
    running.set_user_attr("seconds", 1.0)
    browsed.get_all_trials(study_id(study))
    other.tell(second, 0.5)
    running.suggest_float("x", 0, 1)
    other.tell(ask(other), 0.7)
    found = browsed.get_all_trials(study_id(study))
    assert [trial.number for trial in found] == list(range(15))
    assert [trial.state.name for trial in found[12:]] == ["RUNNING", "COMPLETE", "COMPLETE"]
    assert found[12].params == running.params
    assert {"seconds", "worker"} <= found[12].user_attrs.keys()
    assert "history" not in found[12].user_attrs
    assert "history" in study.trials[12].user_attrs


def test_what_a_study_keeps_reads_as_words(study: optuna.Study) -> None:
    data = {"classes": ["cat", "dog"], "validation images": 7, "pixels": "0f"}
    study.set_user_attr("data", data)
    study.set_user_attr("clock", {"seconds": 1.0})
    (found,) = Browsed(study).get_all_studies()
    assert found.user_attrs == {"classes": "cat, dog", "validation images": 7}


def test_plots_and_the_note_of_the_study_are_no_notes_of_trials(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.display.dashboard.browsed.NOTES", 2 * 12)
    save_note(study, "of the study")
    storage_of(study).set_study_system_attr(study_id(study), "dashboard:plot_data:note_1:0", "{}")
    every = storage_of(study).get_study_system_attrs(study_id(study))
    assert len(every) == 12 * 3 + 4, "a trial's note is a version and two pieces"
    (browsed,) = Browsed(study).get_all_studies()
    assert len(browsed.system_attrs) == 2 * 3 + 4
    unnoted = Unnoted(study).get_study_system_attrs(study_id(study))
    assert unnoted == {
        "study:metric_names": ["accuracy"],
        "dashboard:note_ver": 1,
        "dashboard:note_str:0": "of the study",
        "dashboard:plot_data:note_1:0": "{}",
    }


def test_what_is_written_without_notes_at_hand_is_what_the_dashboard_reads(
    study: optuna.Study,
) -> None:
    unnoted = optuna.load_study(study_name=study.study_name, storage=Unnoted(study))
    for body in ("one", "two " * 1_000, "three"):
        save_note(unnoted, body)
        assert get_note(study) == body
    written = storage_of(study).get_study_system_attrs(study_id(study))
    assert written["dashboard:note_ver"] == 3
    assert _noted(Browsed(study)) == list(range(12))
