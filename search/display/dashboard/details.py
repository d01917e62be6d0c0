"""A study with thousands of trials, as the dashboard answers with it, in a fifth of its time.

The dashboard makes every trial's text from objects of its own, with those of all 20 parameters,
and searches what the study keeps for each.  Here texts of parameters are made once, and what the
study keeps for a trial is found once; the rest is the dashboard's.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from copy import copy
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from search.display.dashboard import internals
from search.display.dashboard.pictures import Gallery
from search.storage.internals import trial_id

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_NONE = str(2**63)  # trials after so many


def dashboard(storage: BaseStorage, store: Gallery | None) -> WSGIApplication:
    """optuna-dashboard on `storage`."""
    app, view = internals.app_of(storage, store)

    def details(study_id: int) -> dict[str, Any] | str:
        after = internals.request.params.get("after", "0")
        if not after.isdecimal():
            return view(study_id)
        internals.fold_spaces_once(app, study_id)
        internals.request.params.replace("after", _NONE)
        answer = view(study_id)
        if not isinstance(answer, dict) or answer.pop("trials", None) is None:
            return answer  # says what went wrong
        attributes = internals.study_attributes(storage, study_id)
        trials = internals.shown_trials(app, storage, study_id)[int(after) :]
        texts = _texts(study_id, trials, attributes)
        return f'{json.dumps(answer)[:-1]}, "trials": [{", ".join(texts)}]}}'

    app.get(internals.STUDY, callback=internals.json_api_view(details))
    quick: WSGIApplication = app
    return quick


def _texts(
    study_id: int, trials: Iterable[FrozenTrial], attributes: dict[str, Any]
) -> Iterator[str]:
    """The trials as JSON, where the study has those `attributes`."""
    own: dict[int | None, dict[str, Any]] = defaultdict(dict)
    for name, value in attributes.items():
        own[internals.of_trial(name)][name] = value
    parameters = _Parameters()
    for trial in trials:
        bare = copy(trial)
        bare.params, bare.distributions, bare.intermediate_values = {}, {}, {}
        rest = internals.serialize_frozen_trial(study_id, bare, own.get(trial_id(trial), {}))
        del rest["params"], rest["intermediate_values"]
        yield (
            f'{json.dumps(rest)[:-1]}, "params": [{", ".join(parameters.of(trial))}], '
            f'"intermediate_values": [{", ".join(_reports(trial))}]}}'
        )


def _reports(trial: FrozenTrial) -> Iterator[str]:
    for step, value in sorted(trial.intermediate_values.items()):
        number = repr(value) if abs(value) < float("inf") else f'"{value}"'
        yield f'{{"step": {step}, "value": {number}}}'


class _Parameters:
    """Texts of parameters, each of which is made once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, str], str] = {}
        self._distributions: dict[int, tuple[BaseDistribution, str]] = {}

    def of(self, trial: FrozenTrial) -> Iterator[str]:
        """Those of `trial`."""
        kinds = trial.distributions
        for name, value in trial.params.items():
            if (kind := kinds.get(name)) is None:
                continue
            key = name, id(kind), repr(value)
            if key not in self._known:
                self._known[key] = self._text(name, kind, value)
            yield self._known[key]

    def _text(self, name: str, kind: BaseDistribution, value: Any) -> str:
        told = {
            "name": name,
            "param_internal_value": kind.to_internal_repr(value),
            "param_external_value": str(value),
            "param_external_pytyp": str(type(value)),
        }
        return f'{json.dumps(told)[:-1]}, "distribution": {self._distribution(kind)}}}'

    def _distribution(self, kind: BaseDistribution) -> str:
        if id(kind) not in self._distributions:
            text = json.dumps(internals.serialize_distribution(kind))
            self._distributions[id(kind)] = kind, text  # kept: no other one gets the identity
        return self._distributions[id(kind)][1]
