"""Networks that somebody names, each trained as a trial beside those of the search.

Such a trial carries its network and recipe from the start, and is not proposed by anybody.  It
has the study's parameters where its space expresses the network; where it does not, samplers
do not see the trial, for a parameter that one trial lacks is lost to all (`learnable`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from search.analysis.traced import module_of
from search.config.candidate import Candidate
from search.domains import Scalar
from search.storage.finalists import searched
from search.storage.internals import storage_of, study_id
from search.storage.trials import Attributes, candidate_of, is_given

_LOST = (TrialState.FAIL, TrialState.PRUNED)


def learnable(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that tell something about parameters: no finalist's training, and no given
    network that the space does not express."""
    return [trial for trial in searched(trials) if trial.params or not is_given(trial)]


def give(
    study: optuna.Study,
    candidate: Candidate,
    name: str,
    params: Mapping[str, Scalar],
    distributions: Mapping[str, BaseDistribution],
) -> int:
    """The number of the trial that trains `candidate`: one that did or does so, else a new one
    that waits for a worker.

    `name` is what people know the network by; `params` are the choices that mean the candidate,
    none where the space does not express it.
    """
    for trial in study.get_trials(deepcopy=False):
        if Attributes.of(trial).candidate == candidate.hash and trial.state not in _LOST:
            return trial.number
    module = module_of(candidate.architecture)
    carried = Attributes(
        candidate=candidate.hash,
        architecture=candidate.architecture.to_json(),
        recipe=asdict(candidate.recipe),
        given=name,
        module=module.key if module else None,
    )
    template = create_trial(
        state=TrialState.WAITING,
        params=dict(params),
        distributions={key: distributions[key] for key in params},
        user_attrs=dict(carried.items()),
    )
    storage = storage_of(study)
    created = storage.create_new_trial(study_id(study), template)
    return storage.get_trial_number_from_id(created)


def given_candidate(trial: Trial) -> Candidate | None:
    """What a given network's trial trains, with its whole batch; None for any other trial."""
    if not is_given(trial):
        return None
    candidate = candidate_of(trial)
    if candidate.hash == Attributes.of(trial).candidate:
        return candidate
    # It ran out of memory before: its recipe tells the half that it was trained with since.
    recipe = replace(candidate.recipe, batch_size=2 * candidate.recipe.batch_size)
    return replace(candidate, recipe=recipe)
