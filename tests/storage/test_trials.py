from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import optuna
import pytest

from search.errors import ConfigError
from search.storage import trials
from search.storage.trials import Attributes, candidate_of, write, write_proposed
from tests.processes import ROOT, ask, created

# As databases hold them: renaming one would orphan every study that was made before.
NAMES = (
    "candidate proposals accepted rejected architecture recipe receptive_field parameters macs "
    "verdict device history seconds pflop pflop_to_target worker deaths batch_divisor failure "
    "finalist moment given module taken"
)


def test_the_names_in_databases_stay() -> None:
    assert tuple(NAMES.split()) == trials.NAMES
    assert {
        trials.ARCHITECTURE,
        trials.DEATHS,
        trials.WORKER,
        trials.GIVEN,
        trials.MODULE,
        trials.TAKEN,
    } <= set(trials.NAMES)


def test_what_is_written_is_read_and_the_rest_stays(url: str) -> None:
    study = created(url)
    trial = ask(study)
    before = Attributes.of(trial)
    write(trial, Attributes(seconds=0.0, rejected={"depth": 2}))
    kept = Attributes.of(study.trials[trial.number])
    assert kept == Attributes.of(trial)
    expected = {**asdict(before), "seconds": 0.0, "rejected": {"depth": 2}}
    assert asdict(kept) == expected
    assert before.worker, "the claim was there from the beginning"


def test_a_sampler_writes_where_the_trial_will_read(sqlite: str) -> None:
    study = created(sqlite)
    trial = ask(study)
    frozen = trial._cached_frozen_trial
    write_proposed(study, frozen, Attributes(candidate="abc", accepted=1))
    assert Attributes.of(trial).candidate == Attributes.of(study.trials[0]).candidate == "abc"


def test_a_trial_of_another_making_carries_nothing() -> None:
    trial = optuna.create_trial(value=1.0, user_attrs={"mine": 1})
    assert Attributes.of(trial) == Attributes()
    with pytest.raises(ConfigError, match="trial -1 holds no candidate"):
        candidate_of(trial)


def test_no_other_module_names_what_a_trial_carries() -> None:
    """`study.user_attrs` are the study's own."""
    named = re.compile(r"(?<!study)\.user_attrs\b|trial\.set_user_attr\(|\.set_trial_user_attr\(")
    found = {
        str(path.relative_to(ROOT))
        for path in Path(ROOT / "search").rglob("*.py")
        if named.search(path.read_text())
    }
    assert found == {"search/storage/trials.py"}
