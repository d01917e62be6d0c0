from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from search.config.files import overridden
from search.config.sections import StudyConfig
from search.errors import ConfigError
from search.storage.opening import open_storage
from search.storage.places import Place
from search.storage.studies import (
    create_or_resume,
    load_study,
    searched,
    study_config,
    study_names,
    study_storage,
)
from tests.processes import ask, created, study_file


def test_a_study_keeps_its_configuration(url: str) -> None:
    config = study_file(objectives=["accuracy", "macs"], pruner="none", target=0.9, trials=7)
    create_or_resume(config, url)
    study = load_study("toy", url)
    assert study_config(study) == config
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "macs"]
    assert study_storage(study).trials == 7


def test_a_resume_may_change_budget_and_target(url: str) -> None:
    created(url)
    changed = study_file(trials=9, target=0.5, hours=1.0, minutes=2.0, failures=1, proposals=5)
    create_or_resume(changed, url)
    assert study_config(load_study("toy", url)) == changed


def test_the_target_that_costs_lead_to_cannot_change(url: str) -> None:
    section = {"objectives": ["accuracy", "pflop"], "pruner": "none", "target": 0.9}
    created(url, **section)
    with pytest.raises(ConfigError, match=r"study\.target.*resume"):
        created(url, **{**section, "target": 0.8})


def test_another_budget_than_that_of_running_workers_is_told(
    sqlite: str, caplog: pytest.LogCaptureFixture
) -> None:
    study = created(sqlite, trials=2, target=0.9)
    trial = ask(study)
    caplog.clear()
    created(sqlite, trials=2, target=0.9)
    assert not caplog.messages
    created(sqlite, trials=5, target=0.9)
    assert caplog.messages == [
        "study toy runs already (trials: 1): those workers keep to trials = 2 until they end, "
        "those of this launch to trials = 5"
    ]
    study.tell(trial, 0.5)
    created(sqlite, trials=7, target=0.9)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"study": {"name": "toy", "seed": 1}}, "study.seed"),
        (
            {"study": {"name": "toy", "objectives": ["accuracy", "macs"], "pruner": "none"}},
            "study.objectives",
        ),
        ({"study": {"name": "toy"}, "limits": {"parameters": 100_000}}, "limits.parameters"),
        ({"study": {"name": "toy"}, "training": {"epochs": 3}}, "training.epochs"),
        ({"study": {"name": "toy"}, "space": {"activation": ["relu"]}}, "space.activation"),
    ],
)
def test_a_resume_names_the_key_that_differs(
    sqlite: str,
    changed: dict[str, Any],
    key: str,
) -> None:
    before = study_config(created(sqlite))
    with pytest.raises(ConfigError, match=rf"^{key}: study toy has .*another name"):
        create_or_resume(StudyConfig.model_validate(changed), sqlite)
    assert study_config(load_study("toy", sqlite)) == before


def test_a_study_that_is_not_there(sqlite: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study\.db does not exist"):
        load_study("toy", sqlite)
    assert not list(tmp_path.iterdir())
    created(sqlite)
    with pytest.raises(ConfigError, match=r"no study other at .*; there are: toy"):
        load_study("other", sqlite)


def test_a_foreign_study_is_refused(sqlite: str) -> None:
    with open_storage(Place.of(sqlite)) as storage:
        optuna.create_study(study_name="foreign", storage=storage)
    with pytest.raises(ConfigError, match="not made by this program"):
        load_study("foreign", sqlite)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"study": {"name": "toy", "quorum": 3}}, "config: study.quorum: unknown key"),
        ({"study": {"name": "toy", "trials": -1}}, "config: study.trials: .*got -1"),
        ([], "config: "),
    ],
)
def test_settings_of_a_newer_version_are_told_as_that(
    sqlite: str, content: object, said: str
) -> None:
    created(sqlite).set_user_attr("config", content)
    said = rf"^study toy: its settings do not read here \({said}.*\); if a newer .* update this one"
    with pytest.raises(ConfigError, match=said):
        load_study("toy", sqlite)


def test_a_broken_study_hides_no_other(sqlite: str) -> None:
    study = created(sqlite)
    created_beside = create_or_resume(study_file(name="beside"), sqlite)
    with study_storage(study).engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE study_user_attributes SET value_json = '{broken' "
            "WHERE key = 'config' AND study_id = 1"
        )
    assert study_names(Place.of(sqlite)) == ["beside", "toy"]
    assert load_study("beside", sqlite).study_name == created_beside.study_name
    with pytest.raises(ConfigError, match="study toy: its settings do not read here"):
        load_study("toy", sqlite)
    with pytest.raises(ConfigError, match="there are: beside, toy"):
        load_study("other", sqlite)


def test_budgets_and_places_are_not_what_is_searched(quickstart: StudyConfig) -> None:
    same = overridden(quickstart, ["study.trials=3", "study.target=0.5", "data.root=/elsewhere"])
    other = overridden(quickstart, ["space.C1.depth=2"])
    assert searched(same) == searched(quickstart) != searched(other)
