"""What this room uses of optuna-dashboard that it does not promise; nothing else here does.

`tests/display/dashboard/test_internals.py` holds it against what is public, and
`test_details.py` the answers against the dashboard's own; `pyproject.toml` allows only releases
on which those tests have passed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna_dashboard import wsgi
from optuna_dashboard._app import request
from optuna_dashboard._bottle_util import json_api_view
from optuna_dashboard._custom_plot_data import SYSTEM_ATTR_PLOT_DATA as PLOTS
from optuna_dashboard._inmemory_cache import _CachedExtraStudyProperty
from optuna_dashboard._note import note_ver_key, split_body
from optuna_dashboard._serializer import serialize_distribution, serialize_frozen_trial
from optuna_dashboard._storage import get_study, get_trials

__all__ = [
    "PLOTS",
    "STUDY",
    "View",
    "json_api_view",
    "request",
    "serialize_distribution",
    "serialize_frozen_trial",
]

STUDY = "/api/studies/<study_id:int>"
"""The route that answers with a study and its trials."""

View = Callable[[int], dict[str, Any] | str]


def note_prefix(trial_id: int | str) -> str:
    """How the names begin under which a study's system attributes hold a trial's note."""
    return f"dashboard:{trial_id}:note_"


def note_entries(trial_id: int, body: str) -> dict[str, Any]:
    """The system attributes of a study that are the first note of a trial.

    `save_note` makes them too, but reads the notes of all trials first, and twice.
    """
    return {note_ver_key(trial_id): 1, **split_body(body, trial_id)}


def of_trial(attribute: str) -> int | None:
    """The id of the trial to which a study's system attribute of that name may belong."""
    for part in attribute.split(":")[1:3]:  # dashboard:7:note_ver, dashboard:artifacts:7:…
        if part.isdecimal():
            return int(part)
    return None


def app_of(storage: BaseStorage, store: object) -> tuple[Any, View]:
    """The dashboard, a Bottle application, and its view of a study, which may be replaced in it."""
    app: Any = wsgi(storage, store)
    (view,) = (each.callback for each in app.routes if (each.rule, each.method) == (STUDY, "GET"))
    return app, view


def shown_trials(app: Any, storage: BaseStorage, study_id: int) -> Sequence[FrozenTrial]:
    """The trials that the dashboard's view shows, which it reads every few seconds."""
    trials: Sequence[FrozenTrial] = get_trials(app._inmemory_cache, storage, study_id)
    return trials


def study_attributes(storage: BaseStorage, study_id: int) -> dict[str, Any]:
    """The system attributes with which the dashboard shows a study."""
    study: Any = get_study(storage, study_id)
    attributes: dict[str, Any] = study.system_attrs
    return attributes


def fold_spaces_once(app: Any, study_id: int) -> None:
    """Lets the dashboard find the search space of that study as `_Folded` does."""
    app._inmemory_cache._cached_extra_study_property_cache.setdefault(study_id, _Folded())


class _Folded(_CachedExtraStudyProperty):  # type: ignore[misc]
    """The union and the intersection of the trials' spaces: one that changed neither is not
    folded in again until another one does."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[Any, Any] = {}

    def _update_search_space(self, trial: FrozenTrial) -> None:
        # By identity: trials share their distributions, whose comparison takes longer than this.
        space = trial.distributions
        key = (*space, *map(id, space.values()))
        if key in self._known:
            return
        before = self._union_search_space, self._intersection_search_space
        super()._update_search_space(trial)
        if before == (self._union_search_space, self._intersection_search_space):
            self._known[key] = space  # kept: no other one gets the identities
        else:
            self._known.clear()
