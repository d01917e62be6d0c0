"""What the storage takes from Optuna without its promise: an upgrade that moves it fails here."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore
from optuna.samplers import GPSampler, TPESampler
from optuna.storages import RDBStorage

from search.proposals import internals as samplers
from search.storage import internals
from search.storage.internals import METHODS, models
from tests.processes import ROOT, ask, created

SIGNATURES = {
    (RDBStorage, "_create_new_trial"): "study_id template_trial",
    (RDBStorage, "_get_prepared_new_trial"): "study_id template_trial session",
    (RDBStorage, "_get_stale_trial_ids"): "study_id",
    (RDBStorage, "_get_trials"): "study_id states included_trial_ids trial_id_greater_than",
    (RDBStorage, "_get_best_trial_id"): "study_id direction",
    (RDBStorage, "_set_trial_param"): (
        "trial_id param_name param_value_internal distribution previous_distribution"
    ),
    (RDBStorage, "_set_trial_param_without_commit"): (
        "session trial_id param_name param_value_internal distribution previous_distribution"
    ),
    (RDBStorage, "_set_trial_attr_without_commit"): "session model_cls trial_id key value",
    (optuna.Study, "_get_trials"): "deepcopy states use_cache",
}
COLUMNS = {
    models.TrialModel: "trial_id number study_id state datetime_start datetime_complete",
    models.TrialValueModel: "trial_value_id trial_id objective value value_type",
    models.TrialParamModel: "param_id trial_id param_name param_value distribution_json",
    models.TrialUserAttributeModel: "trial_user_attribute_id trial_id key value_json",
    models.TrialSystemAttributeModel: "trial_system_attribute_id trial_id key value_json",
    models.StudyUserAttributeModel: "study_user_attribute_id study_id key value_json",
    models.StudySystemAttributeModel: "study_system_attribute_id study_id key value_json",
    models.TrialIntermediateValueModel: (
        "trial_intermediate_value_id trial_id step intermediate_value intermediate_value_type"
    ),
    models.TrialHeartbeatModel: "trial_heartbeat_id trial_id heartbeat",
}


@pytest.mark.parametrize(("owner", "name"), METHODS)
def test_a_method_is_there_and_takes_what_it_took(owner: type, name: str) -> None:
    parameters = [*inspect.signature(getattr(owner, name)).parameters][1:]
    assert parameters == SIGNATURES[owner, name].split()


@pytest.mark.parametrize("model", COLUMNS)
def test_a_table_has_the_columns_that_it_had(model: type) -> None:
    assert [column.name for column in model.__table__.c] == COLUMNS[model].split()


def test_optuna_keeps_its_keys_and_its_cache_where_they_were(sqlite: str) -> None:
    study = created(sqlite)
    trial = ask(study)
    assert internals.study_id(study) == 1
    assert internals.trial_id(trial) == internals.trial_id(study.trials[0]) == 1
    assert internals.storage_of(study) is not internals.backend(study)
    assert isinstance(internals.backend(study), RDBStorage)
    assert [each.number for each in internals.trials_at_start(study)] == [trial.number]


# --- nothing else is used --------------------------------------------------------------

TREES = {path: ast.parse(path.read_text()) for path in (ROOT / "search").rglob("*.py")}
LISTED = {name for _, name in (*METHODS, *samplers.METHODS)}


def _names(*owners: object) -> set[str]:
    """Their names of one underscore."""
    return {name for each in owners for name in dir(each) if re.match("_[a-z]", name)}


def _methods(tree: ast.AST) -> Iterator[str]:
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    for body in (node.body for node in classes):
        yield from (node.name for node in body if isinstance(node, ast.FunctionDef))


OURS = {name for tree in TREES.values() for name in _methods(tree)} | {
    node.attr
    for tree in TREES.values()
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
}


def _asked(tree: ast.AST) -> Iterator[str]:
    """Attributes that are asked for, but for what an object of ours asks of itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            itself = isinstance(node.value, ast.Name) and node.value.id == "self"
            if not (itself and node.attr in OURS):
                yield node.attr


def test_no_other_name_is_used() -> None:
    study = optuna.create_study()
    handed = (study, study.ask(), optuna.create_trial(value=0.0), FileSystemArtifactStore("."))
    derived = _names(optuna.Study, RDBStorage, TPESampler, GPSampler)
    foreign = derived | _names(*handed)
    used = {
        str(path.relative_to(ROOT / "search")): derived & {*_methods(tree)}
        | foreign & {*_asked(tree)}
        for path, tree in TREES.items()
        if path.name != "internals.py"
    }
    assert {name: others for name, found in used.items() if (others := found - LISTED)} == {}


def test_no_other_module_is_imported() -> None:
    found = {
        str(path.relative_to(ROOT / "search"))
        for path in TREES
        if re.search(r"^(from|import) optuna\S*\._", path.read_text(), re.M)
    }
    rooms = ("storage", "proposals", "display/dashboard")
    assert found == {f"{room}/internals.py" for room in rooms}


def test_this_release_is_one_that_was_tested() -> None:
    assert optuna.__version__.startswith("5.0.")
    assert '"optuna==5.0.*"' in (ROOT / "pyproject.toml").read_text()
