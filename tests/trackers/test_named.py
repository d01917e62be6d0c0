"""Each tool's own reader on what was written for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from search.config.sections import StudyConfig
from search.errors import ConfigError
from search.storage.studies import create_or_resume
from search.trackers.named import require_trackers, trackers
from search.trackers.tensorboard import TensorBoard
from search.trackers.tracker import facts
from search.workers.worker import work
from tests.synthetic_study import build, config

NAMES = ["tensorboard"]


def read(folder: Path) -> Any:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_curves_and_facts_of_a_trial_arrive(sqlite: str, tmp_path: Path) -> None:
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


def test_an_accuracy_is_told_by_its_name_and_of_completed_trials_alone() -> None:
    records = [{"epoch": n, "accuracy": 0.2 * n, "balanced_accuracy": 0.1 * n} for n in (1, 2)]
    pruned, complete = (
        create_trial(state=state, value=0.2, user_attrs={"history": records})
        for state in (TrialState.PRUNED, TrialState.COMPLETE)  # Optuna gives both a value
    )
    assert facts(complete) == {"trial/accuracy": 0.4, "trial/balanced_accuracy": 0.2}
    assert facts(pruned) == {}


@pytest.mark.filterwarnings("ignore")  # its own
def test_a_run_of_mlflow_holds_a_trial(
    sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study = build(config(), sqlite, trials=6, running=0)
    (own,) = trackers(["mlflow"], tmp_path / "demo")
    for number in (0, 3, 5):
        own(study, study.trials[number])
    client = tracking.MlflowClient(f"sqlite:///{tmp_path}/demo/mlflow.db")
    experiment = client.get_experiment_by_name("demo")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    for number, state in ((0, "FINISHED"), (3, "KILLED"), (5, "FAILED")):
        trial, run = study.trials[number], runs[f"trial-{number:06d}"]
        told = [(record["epoch"], record["accuracy"]) for record in trial.user_attrs["history"]]
        curve = client.get_metric_history(run.info.run_id, "epoch/accuracy")
        assert [(point.step, point.value) for point in curve] == told
        assert run.info.status == state
        assert run.data.params.keys() == {*trial.params, "state"}
        assert run.data.metrics["trial/parameters"] == trial.user_attrs["parameters"]


@pytest.mark.filterwarnings("ignore")  # its own
def test_a_run_of_wandb_holds_a_trial(
    sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.delenv("WANDB_MODE", raising=False)
    study = build(config(), sqlite, trials=6, running=0)
    (own,) = trackers(["wandb"], tmp_path / "demo")
    trial = study.trials[0]
    own(study, trial)
    (file,) = (tmp_path / "demo" / "wandb").glob("offline-run-*/run-*.wandb")
    curve: list[tuple[int, float]] = []
    summary: dict[str, str] = {}
    for content in _records(file.read_bytes()):
        record = Record()
        record.ParseFromString(content)
        if record.HasField("run"):
            named = record.run.project, record.run.display_name
        points = {_key(item): item.value_json for item in record.history.item}
        if "epoch/accuracy" in points:
            curve.append((record.history.step.num, float(points["epoch/accuracy"])))
        summary |= {_key(item): item.value_json for item in record.summary.update}
    assert named == ("demo", "trial-000000")
    told = [(record["epoch"], record["accuracy"]) for record in trial.user_attrs["history"]]
    assert curve == [(epoch, pytest.approx(value)) for epoch, value in told]
    assert float(summary["trial/parameters"]) == trial.user_attrs["parameters"]


def _key(item: Any) -> str:
    return "/".join(item.nested_key) or str(item.key)


def _records(log: bytes) -> Iterator[bytes]:
    """The records of a log as LevelDB writes it, in blocks of 32 KiB, behind wandb's own head."""
    place, whole = 7, b""
    while place + 7 <= len(log):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(log[place + 4 : place + 6], "little"), log[place + 6]
        place += 7 + length
        whole += log[place - length : place]
        if kind in (1, 4):  # a whole one, or the last piece of one
            yield whole
            whole = b""


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
    with pytest.raises(ConfigError, match=r"among tensorboard, mlflow, wandb \(got 'neptune'\)"):
        require_trackers(["neptune"])
