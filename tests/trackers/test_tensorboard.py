"""TensorBoard's own reader on what was written for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from search.config.sections import StudyConfig
from search.errors import ConfigError
from search.storage.studies import create_or_resume
from search.trackers.named import TRACKERS, require_trackers, trackers
from search.trackers.tensorboard import TensorBoard
from search.workers.worker import work
from tests.synthetic_study import build, config

NAMES = ["tensorboard"]


def read(folder: Path) -> Any:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder))
    events.Reload()
    return events


def test_curves_and_facts_of_a_trial_arrive(sqlite: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    study = build(config(), sqlite, trials=6, running=0)
    (own,) = trackers(NAMES, tmp_path)
    for number in (0, 3, 5):  # completed, pruned, failed
        own(study, study.trials[number])
    for number, epochs in ((0, 16), (3, 4), (5, 1)):
        trial = study.trials[number]
        events = read(tmp_path / "tensorboard" / f"trial-{number:06d}")
        curve = [(point.step, point.value) for point in events.Scalars("epoch/accuracy")]
        told = [(record["epoch"], record["accuracy"]) for record in trial.user_attrs["history"]]
        assert len(curve) == epochs
        assert curve == [(epoch, pytest.approx(value)) for epoch, value in told]
        (parameters,) = events.Scalars("trial/parameters")
        assert parameters.value == trial.user_attrs["parameters"]
        assert ("trial/accuracy" in events.Tags()["scalars"]) == (number == 0)


def test_a_worker_tells_its_trackers_and_survives_them(
    sqlite: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: StudyConfig = config(trials=2, target=None, finalists=1)
    study = create_or_resume(settings, sqlite)
    told: list[int] = []

    def note(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        told.append(trial.number)

    (broken,) = trackers(NAMES, tmp_path)
    broken.runs = tmp_path / "file"
    broken.runs.write_text("no directory")
    work(study, settings, lambda stop: lambda trial: 0.5, callbacks=[note, broken])
    assert told == [0, 1]
    assert "trial 1 is not in tensorboard: " in caplog.text


def test_a_package_that_is_not_here_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    require_trackers([])
    monkeypatch.setattr(TensorBoard, "package", "no_such_package")
    with pytest.raises(ConfigError, match=r"pip install 'c1c4-search\[tensorboard\]'"):
        require_trackers(NAMES)
    assert list(TRACKERS) == NAMES
