"""Whether a study's own trials bear out those that it took over from an older one.

Accuracies are taken over only where images and training are the same.  Should they mean something
else nevertheless, everything would be compared with numbers that nothing here reaches.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import islice
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.storage.internals import trials_at_start
from search.storage.trials import is_finalist, is_given, is_taken

States = Container[TrialState] | None

FIRST = 12
"""Own trials that may decide."""

_RARE = 0.01


def borne_out(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """All `trials`, less those taken over where the study's own refute them: where the first few
    are all so bad that as many as good as the older ones are rarely, once in a hundred times.

    With a look after each of twelve that is one study in sixteen, of trials just as good; what is
    proposed as older trials teach is better than these, where they tell the truth.
    """
    older = [trial for trial in trials if is_taken(trial)]
    if _refuted(trials, older):
        return [trial for trial in trials if not is_taken(trial)]
    return list(trials)


class BorneOut:
    """A study as what learns from it sees it: with those trials alone that are borne out."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True, states: States = None) -> list[FrozenTrial]:
        return self._shown(self._study.get_trials(deepcopy), states)

    def _get_trials(
        self, deepcopy: bool = True, states: States = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = trials_at_start(self._study) if use_cache else self._study.get_trials(deepcopy)
        return self._shown(trials, states)

    def _shown(self, trials: Sequence[FrozenTrial], states: States) -> list[FrozenTrial]:
        return [t for t in self._seen(trials) if states is None or t.state in states]

    def _seen(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return borne_out(trials)


def _refuted(trials: Sequence[FrozenTrial], older: Sequence[FrozenTrial]) -> bool:
    best = 0.0
    for count, trial in enumerate(islice(filter(_speaks, trials), FIRST), 1):
        best = max(best, _place(trial, older))
        if best**count <= _RARE:
            return True
    return False


def _speaks(trial: FrozenTrial) -> bool:
    named = is_taken(trial) or is_given(trial) or is_finalist(trial)
    return trial.state.is_finished() and bool(trial.intermediate_values) and not named


def _place(trial: FrozenTrial, older: Sequence[FrozenTrial]) -> float:
    """How probable it is that one as good as `older` is no better, after as many epochs."""
    epoch = max(trial.intermediate_values)
    values = [t.intermediate_values[epoch] for t in older if epoch in t.intermediate_values]
    worse = sum(value <= trial.intermediate_values[epoch] for value in values)
    return (1 + worse) / (1 + len(values))
