"""What the storage takes from Optuna without its promise: an upgrade that moves it fails here."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage

from search.storage import internals
from search.storage.internals import METHODS, models
from tests.processes import ROOT, ask, created

SIGNATURES = {
    "_create_new_trial": "study_id template_trial",
    "_get_prepared_new_trial": "study_id template_trial session",
    "_get_stale_trial_ids": "study_id",
    "_get_trials": "study_id states included_trial_ids trial_id_greater_than",
    "_get_best_trial_id": "study_id direction",
    "_set_trial_param": (
        "trial_id param_name param_value_internal distribution previous_distribution"
    ),
    "_set_trial_param_without_commit": (
        "session trial_id param_name param_value_internal distribution previous_distribution"
    ),
    "_set_trial_attr_without_commit": "session model_cls trial_id key value",
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


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_there_and_takes_what_it_took(name: str) -> None:
    parameters = [*inspect.signature(getattr(RDBStorage, name)).parameters][1:]
    assert parameters == SIGNATURES[name].split()


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


def _private(path: Path) -> Iterator[str]:
    """Non-public names of Optuna's storage that a file of ours uses."""
    tree = ast.parse(path.read_text())
    ours = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in dir(RDBStorage):
            yield node.attr
    yield from ours & set(dir(RDBStorage))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "search" / "storage").glob("*.py")), ids=lambda p: p.stem
)
def test_no_other_method_is_used(path: Path) -> None:
    private = {name for name in _private(path) if re.match("_[a-z]", name)}
    assert private <= METHODS.keys()


def test_no_other_module_reaches_into_optuna() -> None:
    reach = re.compile(r"from optuna(\.\w+)*\._|\._(storage|study_id|trial_id)\b")
    own = re.compile(r"self\._(storage|study_id|trial_id)\b")
    found = {
        str(path.relative_to(ROOT / "search"))
        for path in (ROOT / "search").rglob("*.py")
        if reach.search(own.sub("", path.read_text()))
    }
    assert found == {"storage/internals.py", "proposals/internals.py"}


def test_this_release_is_one_that_was_tested() -> None:
    assert optuna.__version__.startswith("5.0.")
    assert '"optuna==5.0.*"' in (ROOT / "pyproject.toml").read_text()
