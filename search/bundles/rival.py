"""An exported trial beside the best other one of its study: why this one?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from search.bundles.metrics import Again
from search.config.candidate import Candidate
from search.config.sections import StudyConfig
from search.storage.summary import Progress, Summary
from search.storage.trials import Attributes, candidate_of


@dataclass(frozen=True)
class Side:
    """One of the two: what the search measured, what further trainings tell (None where there
    were none), and what its training cost."""

    trial: Progress
    again: Again | None
    pflop: float | None


@dataclass(frozen=True)
class Rivals:
    """The exported trial and the best other one; `better` where the other is the one
    that the study would export.  `differences` are the choices that tell the two networks or
    their trainings apart, as (this, other)."""

    this: Side
    other: Side
    better: bool
    differences: Mapping[str, tuple[Any, Any]]


def rivals(
    study: optuna.Study, config: StudyConfig, summary: Summary, number: int
) -> Rivals | None:
    """Of trial `number`; None where no other training completed."""
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    agains = {each.trial: Again.of(each) for each in summary.standing.ordered if each.mean}
    progress = {trial.number: trial for trial in summary.trials}
    order = dict.fromkeys((*agains, *(trial.number for trial in summary.best)))
    ranked = [n for n in order if Attributes.of(trials[n]).verdict == "accepted"]
    this = trials[number]
    others = (n for n in ranked if _training(trials[n]) != _training(this))
    other = next(others, None)
    if other is None:
        return None

    def side(n: int) -> Side:
        return Side(progress[n], agains.get(n), Attributes.of(trials[n]).pflop)

    better = number not in ranked or ranked.index(other) < ranked.index(number)
    return Rivals(side(number), side(other), better, _differences(config, this, trials[other]))


def _training(trial: FrozenTrial) -> Candidate:
    """The candidate, whatever its seed."""
    candidate = candidate_of(trial)
    return replace(candidate, recipe=replace(candidate.recipe, repeat=0))


def _differences(
    config: StudyConfig, this: FrozenTrial, other: FrozenTrial
) -> dict[str, tuple[Any, Any]]:
    """A choice without effect on either, as the kernel of a block of depth 0, tells nothing."""
    common = this.params.keys() & other.params.keys()  # one that was given may have none
    pairs = {
        name: (this.params[name], other.params[name]) for name in this.params if name in common
    }
    return {
        name: pair
        for name, pair in pairs.items()
        if pair[0] != pair[1]
        and (_matters(config, this, name, pair[1]) or _matters(config, other, name, pair[0]))
    }


def _matters(config: StudyConfig, trial: FrozenTrial, name: str, value: Any) -> bool:
    architecture = candidate_of(trial).architecture

    def made(choices: Mapping[str, Any]) -> Candidate:
        shape, classes = architecture.input, architecture.classes
        return config.candidate(choices, input=shape, classes=classes)

    return made({**trial.params, name: value}) != made(trial.params)
