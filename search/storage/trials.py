"""What a trial carries, and which one is the best."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.config.candidate import Candidate, Recipe
from search.errors import ConfigError
from search.networks.architecture import Architecture, ArchitectureError


def choose(study: optuna.Study, number: int | None = None) -> FrozenTrial:
    """The trial to export: `number`, or the most accurate completed one (the earlier, of two).

    Raises:
        ConfigError: nothing has completed yet, or not that trial.
    """
    trials = study.get_trials(deepcopy=False)
    completed = [
        trial
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.user_attrs.get("verdict") == "accepted"
    ]
    if number is None:
        if not completed:
            raise ConfigError(
                f"study {study.study_name}: no trial has completed yet; launch it for longer"
            )
        return min(completed, key=lambda trial: (-trial.values[0], trial.number))
    for trial in completed:
        if trial.number == number:
            return trial
    states = {trial.number: trial.state.name.lower() for trial in trials}
    found = f"is {states[number]}" if number in states else "does not exist"
    raise ConfigError(f"study {study.study_name}: trial {number} {found}; export a completed one")


def candidate_of(trial: FrozenTrial) -> Candidate:
    """The candidate that a trial trained, from its user attributes.

    Raises:
        ConfigError: they hold none of this program.
    """
    attributes = trial.user_attrs
    try:
        architecture = Architecture.from_json(attributes["architecture"])
        return Candidate(architecture, Recipe(**attributes["recipe"]))
    except (KeyError, TypeError, ArchitectureError) as error:
        raise ConfigError(f"trial {trial.number} holds no candidate: {error}") from None
