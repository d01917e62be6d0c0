"""A study as a browser gets it: whole, every few seconds, so without what fills pages unread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from search.display import wording
from search.display.dashboard.internals import PLOTS, note_prefix
from search.storage.database import StudyStorage
from search.storage.internals import FrozenStudy, models, storage_of, transaction
from search.storage.patience import patient, reading
from search.storage.studies import STUDY_ATTRIBUTES, study_storage
from search.storage.trials import as_seen

NOTES = 300_000
"""As many notes times trials are sent.  For each trial the dashboard looks through all notes,
and it sends them with every refresh; at 10,000 trials that is the notes of 30."""

_Attribute = models.StudySystemAttributeModel
_NOTE = _Attribute.key.like(note_prefix("%") + "%") & ~_Attribute.key.startswith(PLOTS)


class Browsed(StudyStorage):
    """The storage of a study that is looked at, over its connections and its cache.

    Attributes are those of `as_seen`.  Of long studies, the notes of all but the best and the
    latest trials stay here.
    """

    def __init__(self, study: optuna.Study) -> None:
        vars(self).update(vars(study_storage(study)))
        self._cache = storage_of(study)  # reads what has ended once

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Any = None
    ) -> list[FrozenTrial]:
        """The dashboard changes none of them, so they share what they hold."""
        trials = self._cache.get_all_trials(study_id, deepcopy=False, states=states)
        return [as_seen(trial, wording.rule) for trial in trials]

    @patient
    @reading
    def get_all_studies(self) -> list[FrozenStudy]:
        with transaction(self.scoped_session) as session:
            studies: Any = session.query(models.StudyModel).order_by("study_id")
            return [
                FrozenStudy(
                    study_name=study.study_name,
                    direction=None,
                    directions=[row.direction for row in study.directions],
                    user_attrs=_told(
                        {row.key: json.loads(row.value_json) for row in study.user_attributes}
                    ),
                    system_attrs=_worth_reading(session, study.study_id),
                    study_id=study.study_id,
                )
                for study in studies
            ]


class Unnoted(StudyStorage):
    """The storage of a study, over its connections, that does not tell the notes of its trials:
    for the dashboard's functions, which read all of them to write one thing."""

    def __init__(self, study: optuna.Study) -> None:
        vars(self).update(vars(study_storage(study)))

    @patient
    @reading
    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        with transaction(self.scoped_session) as session:
            rows = session.query(_Attribute.key, _Attribute.value_json)
            kept = rows.filter(_Attribute.study_id == study_id, ~_NOTE)
            return {key: json.loads(text) for key, text in kept}


def _told(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A study's attributes as a person reads them: what its images are, one by one, and what
    this program did not write.  Its settings stand in its note, clocks nowhere."""
    others = {name: v for name, v in attributes.items() if name not in STUDY_ATTRIBUTES}
    images = {name: v for name, v in attributes.get("data", {}).items() if name != "pixels"}
    in_words = {n: ", ".join(map(str, v)) if isinstance(v, list) else v for n, v in images.items()}
    return {**others, **in_words}


def _worth_reading(session: Session, study_id: int) -> dict[str, Any]:
    rows = session.query(_Attribute.key, _Attribute.value_json).filter_by(study_id=study_id)
    trials = session.query(models.TrialModel.trial_id).filter_by(study_id=study_id)
    room = NOTES // max(1, (number := trials.count()))
    if room < number:
        of_one = (_Attribute.key.startswith(note_prefix(key)) for key in _noted(trials, room))
        rows = rows.filter(~_NOTE | sa.or_(False, *of_one))
    return {key: json.loads(text) for key, text in rows}


def _noted(trials: Any, room: int) -> set[int]:
    value = models.TrialValueModel
    best = (
        trials.join(value)
        .filter(models.TrialModel.state == TrialState.COMPLETE, value.objective == 0)
        .order_by(value.value.desc())
        .limit(room // 2)
    )
    chosen = {key for (key,) in best}
    latest = trials.order_by(models.TrialModel.trial_id.desc()).limit(room - len(chosen))
    return chosen | {key for (key,) in latest}
