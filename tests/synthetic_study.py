"""A study as workers leave it, made in a moment: real candidates, invented accuracies."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from constraints import Violation, violations
from search.analysis.facts import Facts
from search.config.files import parse
from search.config.sections import StudyConfig
from search.domains import Choice, Domain, IntRange
from search.storage.finalists import standing, template
from search.storage.studies import create_or_resume

INPUT, CLASSES = (3, 32, 32), 10


def config(name: str = "demo", **study: Any) -> StudyConfig:
    block = {
        "depth": {"low": 1, "high": 3},
        "width": {"low": 16, "high": 64, "step": 8},
        "operator": ["dense", "separable"],
        "dilation": [1, 2],
        "residual": [False, True],
    }
    training = {"epochs": 16, "learning_rate": {"low": 0.02, "high": 0.2, "log": True}}
    section = {"name": name, "target": 0.85, "trials": 40, **study}
    return parse({"study": section, "space": {"block": block}, "training": training}, "test")


def build(
    study_config: StudyConfig, url: str, *, trials: int = 14, running: int = 2, seed: int = 0
) -> optuna.Study:
    """`trials` finished ones (some pruned, one failed) and `running` more."""
    study = create_or_resume(study_config, url)
    rng = random.Random(seed)
    start = datetime.now() - timedelta(minutes=5 * trials)
    for number in range(trials):
        begin = start + timedelta(minutes=5 * number)
        state = (
            TrialState.FAIL
            if number == 5
            else TrialState.PRUNED
            if number % 4 == 3
            else TrialState.COMPLETE
        )
        study.add_trial(_trial(study_config, rng, state, number, begin))
    for number in range(running):
        begin = datetime.now() - timedelta(minutes=2)
        study.add_trial(_trial(study_config, rng, TrialState.RUNNING, trials + number, begin))
    return study


def train_finalists(study: optuna.Study, study_config: StudyConfig, lost: int) -> None:
    """Their trainings as workers leave them; each comes out a point lower than the search
    measured, with some noise, and the first one of trial `lost` diverges."""
    rng = random.Random(1)
    while (now := standing(study.trials, study_config)).next is not None:
        trial, source = template(study.trials, now), study.trials[now.next]
        value = source.values[0] - 0.01 + rng.gauss(0, 0.002)
        ended = (TrialState.FAIL, None) if now.next == lost else (TrialState.COMPLETE, value)
        trial.state, trial.value = ended
        trial.set_user_attr("verdict", "accepted")
        trial.datetime_start = trial.datetime_complete = datetime.now()
        study.add_trial(trial)


def feasible(study_config: StudyConfig, seed: int) -> dict[str, Any]:
    """Choices of a candidate that keeps every rule."""
    return _feasible(study_config, random.Random(seed))[0]


def _trial(
    study_config: StudyConfig, rng: random.Random, state: TrialState, number: int, begin: datetime
) -> optuna.trial.FrozenTrial:
    choices, rejected, proposals = _feasible(study_config, rng)
    candidate = study_config.candidate(choices, input=INPUT, classes=CLASSES)
    size = Facts(candidate.architecture)
    epochs = {TrialState.COMPLETE: 16, TrialState.PRUNED: 4, TrialState.FAIL: 1}.get(state, 7)
    top = 0.78 + 0.005 * min(number, 10) + 0.02 * rng.random()
    history = [_epoch(epoch, top) for epoch in range(1, epochs + 1)]
    attributes = {
        "architecture": candidate.architecture.to_json(),
        "recipe": vars(candidate.recipe),
        "candidate": candidate.hash,
        "receptive_field": size.receptive_field[0],
        "parameters": size.parameters,
        "macs": size.macs,
        "verdict": "accepted",
        "rejected": rejected,
        "proposals": proposals,
        "history": history,
        "seconds": 12.5 * epochs,
        "device": "cpu",
    }
    if state == TrialState.FAIL:
        attributes["failure"] = "the loss became NaN in epoch 2"
    return optuna.trial.create_trial(
        state=state,
        params=choices,
        distributions={k: _distribution(d) for k, d in study_config.parameters.items()},
        value=history[-1]["accuracy"] if state == TrialState.COMPLETE else None,
        intermediate_values={e["epoch"]: e["accuracy"] for e in history},
        user_attrs=attributes,
    )


def _epoch(epoch: int, top: float) -> dict[str, float]:
    accuracy = top - 0.45 * 0.7**epoch
    return {
        "epoch": epoch,
        "train_loss": 2.3 * 0.85**epoch,
        "validation_loss": 2.2 * 0.87**epoch,
        "accuracy": accuracy,
        "learning_rate": 0.1,
        "images": 45_000,
        "seconds": 12.5,
    }


def _feasible(
    study_config: StudyConfig, rng: random.Random
) -> tuple[dict[str, Any], dict[str, int], int]:
    rejected: dict[str, int] = {}
    proposals = 0
    while True:
        proposals += 1
        choices = {name: domain.sample(rng) for name, domain in study_config.parameters.items()}
        candidate = study_config.candidate(choices, input=INPUT, classes=CLASSES)
        broken: tuple[Violation, ...] = violations(candidate.architecture, study_config.rules)
        if not broken:
            return choices, rejected, proposals
        for violation in broken:
            rejected[violation.rule] = rejected.get(violation.rule, 0) + 1


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if isinstance(domain, IntRange):
        return IntDistribution(domain.low, domain.high, step=domain.step)
    return FloatDistribution(domain.low, domain.high, log=domain.log)
