"""`train` and `launch --from`, up to where training begins."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from constraints import violations
from run_study import run
from search.analysis.tracing.loading import load_factory
from search.config.files import overridden
from search.config.sections import StudyConfig
from search.networks.architecture import Architecture
from search.proposals.parameters import distributions
from search.storage.studies import create_or_resume, load_study, study_config
from search.storage.trials import Attributes, candidate_of
from search.study import Study
from search.workers.supervisor import Ending
from tests.conftest import STUDIES, own
from tests.modules import written as written_module
from tests.synthetic_study import CLASSES, INPUT, feasible

QUICK = "studies/quickstart.toml"
OTHER = ("--set", "study.name=other")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nothing is yet, and nothing is trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STUDY_STORAGE", raising=False)
    own()
    monkeypatch.setattr(Study, "launch", _launch)
    monkeypatch.setattr("search.study.ESTIMATED", 20)
    return tmp_path


def _launch(study: Study, **_: object) -> Ending:
    study.create()
    return Ending("nothing is trained here", 0)


def network(config: StudyConfig, seed: int, **changes: Any) -> Architecture:
    choices = {**feasible(config, seed), **{k.replace("_", "."): v for k, v in changes.items()}}
    return config.candidate(choices, input=INPUT, classes=CLASSES).architecture


def written(network: Architecture, name: str) -> str:
    Path(name).write_text(json.dumps(network.to_json()))
    return name


@pytest.fixture
def old() -> Study:
    """A study of three completed trials, of 70, 71 and 72 %."""
    study = Study(QUICK, overrides=["study.name=old"])
    config = study.config
    for seed in range(3):
        choices = feasible(config, seed)
        candidate = config.candidate(choices, input=INPUT, classes=CLASSES)
        carried = Attributes(
            architecture=candidate.architecture.to_json(),
            recipe=asdict(candidate.recipe),
            verdict="accepted",
        )
        trial = create_trial(
            value=0.7 + 0.01 * seed,
            params=choices,
            distributions=distributions(config),
            user_attrs=dict(carried.items()),
        )
        study.create().add_trial(trial)
    return study


def test_what_cannot_be_trained_is_refused_and_nothing_is_made(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = str(STUDIES / "baseline.json")
    written_module(place)
    refused = {
        baseline: (1, "quickstart rejects the network: parameters must stay below 60,000"),
        "mine.py:colored": (1, "quickstart rejects the network: the receptive field must exceed"),
        "mine.py:network": (2, "mine.py:network: does not take the study's images [3, 32, 32]"),
        "mine.py:several": (2, "mine.py:several: does not take the study's images"),
        "mine.py:nothing": (2, "mine.py has no 'nothing'"),
        "nothing.json": (2, "nothing.json: No such file"),
        "nothing:3": (2, "no study nothing"),
    }
    for target, (code, message) in refused.items():
        assert run(["train", target, QUICK]) == code
        assert message in capsys.readouterr().err
    assert run(["train", baseline, QUICK, "--set", "data.image_size=16"]) == 2
    assert "reads images [3, 32, 32]" in capsys.readouterr().err
    assert not list((place / "studies").glob("*.db*"))


def test_a_module_is_trained_and_shows_everywhere(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Study, "train", lambda study, number, **_: study.work(only=number))
    file = written_module(place)
    settings = (
        "study.name=mine", "training.epochs=1", "augmentation.epochs=1", "limits.downsampling=1",
        "limits.receptive_field=16", "data.image_size=16", "augmentation.hole=4",
    )  # fmt: skip
    told = [word for key in settings for word in ("--set", key)]
    assert run(["train", "mine.py:colored", QUICK, *told]) == 0
    out, err = capfd.readouterr()
    assert "what it prints" not in out
    assert "a module has no blocks: its stride-2 convolutions count wherever they stand" in err
    assert f"export mine --trial 0 --module {file.name}:colored" in err
    assert "#0 given" in out
    assert run(["train", "mine.py:colored", QUICK, *told]) == 0, "it is there"
    capfd.readouterr()
    assert run(["status", "mine", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["best"]["number"] == 0
    (best,) = Study("mine").summary.best
    parameters = sum(p.numel() for p in load_factory("mine.py:colored")().parameters())
    assert (best.given, best.parameters) == ("mine.py:colored", parameters)
    file.unlink()  # what is shown asks nothing of the code
    assert run(["launch", "mine"]) == 0
    note = "trial 0 is code: --module mine.py:colored lets it be trained here"
    assert note in capfd.readouterr().err
    assert run(["check", "mine:0", "--json"]) == 0
    assert run(["compare", "mine", "mine"]) == 0
    assert run(["check", "mine:0", "--input", "3,8,8"]) == 2
    assert run(["train", "mine:0", QUICK, "--set", "study.name=other"]) == 2
    assert "mine:0 is code: mine.py:colored; `train` takes that file" in capfd.readouterr().err


def test_a_given_network_changes_no_budget(
    old: Study, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Study, "train", lambda study, number, **_: _launch(study))
    target = written(network(old.config, 7), "mine.json")
    given = ["train", target, QUICK, "--set", "study.name=old"]
    create_or_resume(overridden(old.config, ["study.trials=3", "study.hours=2.5"]), old.place)
    for told, trials in (([], 3), (["--set", "study.trials=4"], 4)):
        assert run([*given, *told]) == 0
        kept = study_config(old.load()).study
        assert (kept.trials, kept.hours, kept.target) == (trials, 2.5, 0.985)


def test_a_study_begins_with_a_network_and_mutates_it(
    old: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    start = network(old.config, 1)
    for _ in range(2):  # again: they are queued already
        assert run(["launch", QUICK, *OTHER, "--from", written(start, "mine.json")]) == 0
    assert "begins with mine.json and 2 mutations of it" in capsys.readouterr().err
    queued = _queued("other")
    assert len(queued) == 3
    for told in queued:
        assert told.keys() == old.config.space.parameters.keys(), "the sampler chooses the recipe"
    meant = [old.config.space.architecture(told, input=INPUT, classes=CLASSES) for told in queued]
    assert meant[0] == start
    assert len(set(meant)) == 3, "each is another network"
    assert not any(violations(each, old.config.rules) for each in meant)
    assert run(["launch", QUICK, *OTHER, "--from", "old:2"]) == 0
    again = old.config.candidate(_queued("other")[3], input=INPUT, classes=CLASSES)
    assert again == candidate_of(old.load().trials[2])


def _queued(name: str) -> list[dict[str, Any]]:
    trials = load_study(name, f"sqlite:///studies/{name}.db").trials
    assert all(trial.state == TrialState.WAITING for trial in trials)
    return [trial.system_attrs["fixed_params"] for trial in trials]


def test_a_network_that_does_not_fit_is_told_and_nothing_is_made(
    place: Path, old: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = written(network(old.config, 1, C1_width=10), "odd.json")
    assert run(["launch", QUICK, *OTHER, "--from", odd]) == 2
    shown = capsys.readouterr().err
    assert "C1.width is 10, but the space has 8 to 16 in steps of 4" in shown
    _, command = shown.split("train it beside the search: ")
    assert not (place / "studies" / "other.db").exists()
    assert run(["launch", QUICK, *OTHER, "--from", "mine.py:network"]) == 2
    assert "no space expresses a module" in capsys.readouterr().err
    tight = [*OTHER, "--set", "limits.parameters=20_000"]
    for illegal in ("old:0", odd):  # in the space or not: nothing here trains it
        assert run(["launch", QUICK, *tight, "--from", illegal]) == 1
        shown = capsys.readouterr().err
        assert "parameters must stay below 20,000" in shown
        assert "train it" not in shown
    assert not (place / "studies" / "other.db").exists()
    monkeypatch.setattr(Study, "train", lambda *_, **__: Ending("nothing is trained here", 0))
    assert run(["train", *shlex.split(command.partition(" train ")[2])]) == 0
    assert load_study("other", "sqlite:///studies/other.db").trials


def test_a_study_takes_over_another_s_trials(
    old: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, line in (
        ("old", "took over 3 of 3 trials of old"),
        ("sqlite:///studies/old.db:old", "took over 0 of 3 trials of old; left: 3 here already"),
    ):
        assert run(["launch", QUICK, *OTHER, "--from", source]) == 0
        assert line in capsys.readouterr().err
    study = Study("other")
    assert [trial.taken for trial in study.summary.best] == ["old:2", "old:1", "old:0"]
    epochs = ["--set", "study.name=short", "--set", "training.epochs=2"]
    assert run(["launch", QUICK, *epochs, "--from", "old"]) == 0
    line = "the best one of those whose accuracy does not compare (epochs is 8 there, 2 here)"
    assert line in capsys.readouterr().err
    queued = [t.system_attrs["fixed_params"] for t in Study("short").load().trials]
    assert queued == [old.load().trials[-1].params]


def test_a_study_does_not_take_over_itself(old: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["launch", "old", "--from", "old"]) == 2
    assert "cannot take over from itself" in capsys.readouterr().err
    assert run(["launch", QUICK, *OTHER, "--from", "nothing"]) == 2
    assert "no study nothing" in capsys.readouterr().err
