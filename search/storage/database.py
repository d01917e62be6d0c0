"""Optuna's relational storage, made safe for several workers.

Its layers, from the ground up: `connection.py` waits for a database that is busy or away,
`writes.py` makes writes together, `claims.py` decides who trains what, and `recovery.py` gives
back what a lost worker had.  They override non-public methods of Optuna's `RDBStorage`, which
`internals.py` lists; their tests run eight processes against a real SQLite file and a real
PostgreSQL server.
"""

from __future__ import annotations

import json
import time
from collections.abc import Container, Sequence
from contextlib import suppress

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from search.storage.claims import UNCOUNTED, text_of, trials_of
from search.storage.internals import models, transaction
from search.storage.patience import light, patient, reading
from search.storage.reading import read_trials
from search.storage.recovery import RecoveringStorage
from search.storage.trials import FINALIST
from search.storage.writes import UNHEARD

CLOCK_GAP = 30.0
"""Seconds without any worker's sign after which the budget of hours does not run on."""


class StudyStorage(RecoveringStorage):
    """The storage of this program's studies; its layers tell what it promises."""

    @patient
    @reading
    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        with transaction(self.scoped_session) as session:
            models.StudyModel.find_or_raise_by_id(study_id, session)
            return read_trials(session, study_id, states, included_trial_ids, trial_id_greater_than)

    @patient
    @reading
    def names(self, attribute: str | None = None) -> list[str]:
        """The names of all studies, or of those that have a user attribute of that name.

        No attribute is read: one that is broken keeps its study, and no other, from being used.
        """
        with transaction(self.scoped_session) as session:
            studies = session.query(models.StudyModel.study_name)
            if attribute is not None:
                studies = studies.join(models.StudyUserAttributeModel).filter_by(key=attribute)
            return sorted(row[0] for row in studies)

    @patient
    def delete_study(self, study_id: int) -> None:
        """Deletes a study with all its trials, those included that somebody works on."""
        with transaction(self.scoped_session) as session:
            # What a worker adds while Optuna deletes would make it give up, and say nothing.
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            trials = session.query(models.TrialModel.trial_id).filter_by(study_id=study_id)
            trials.with_for_update().all()
            super().delete_study(study_id)

    # What workers ask between two steps: no trial is built for it

    @patient
    def count(self, study_id: int, *, without: Sequence[str] = UNCOUNTED) -> dict[TrialState, int]:
        """How many trials are in which state, but for those with an attribute of `without`: those
        that the budget does not count."""
        with transaction(self.scoped_session) as session:
            trials, states = trials_of(session, study_id, without=without), models.TrialModel.state
            rows = (
                trials.with_entities(states, sa.func.count(models.TrialModel.trial_id))
                .group_by(states)
                .all()
            )
            return {row[0]: row[1] for row in rows}

    @patient
    def best_value(self, study_id: int) -> float | None:
        """The highest first value among complete trials, those of finalists apart; None when there
        is none."""
        with transaction(self.scoped_session) as session:
            best: float | None = (
                trials_of(session, study_id, without=(FINALIST,))
                .join(models.TrialValueModel)
                .filter(
                    models.TrialModel.state == TrialState.COMPLETE,
                    models.TrialValueModel.objective == 0,
                )
                .with_entities(sa.func.max(models.TrialValueModel.value))
                .scalar()
            )
            return best

    @patient
    @light
    def advance_clock(self, study_id: int) -> float:
        """Seconds for which at least one worker was active; every worker calls it now and then.

        Each call adds the time since the last one of any worker, unless that was long ago.  So
        does each heartbeat of a trial, for between two of its steps minutes may pass.
        """
        with transaction(self.scoped_session) as session:
            study = models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            attribute = models.StudyUserAttributeModel
            clock = attribute.find_by_study_and_key(study, "clock", session)
            now = time.time()
            if clock is None:
                clock = attribute(study_id=study_id, key="clock")
                session.add(clock)
                before = {"seconds": 0.0, "at": now}
            else:
                before = json.loads(text_of(clock))
            gap = now - before["at"]
            seconds: float = before["seconds"] + (gap if 0 < gap < CLOCK_GAP else 0.0)
            # The clock of another machine may be ahead: set back, it would count that anew each
            # time.
            at = before["at"] if -CLOCK_GAP < gap < 0 else now
            clock.value_json = json.dumps({"seconds": seconds, "at": at})
            return seconds

    def record_heartbeat(self, trial_id: int) -> None:
        super().record_heartbeat(trial_id)
        with suppress(*UNHEARD):
            self.advance_clock(self._study_of(trial_id))

    @patient
    @reading
    def _study_of(self, trial_id: int) -> int:
        with transaction(self.scoped_session) as session:
            return int(models.TrialModel.find_or_raise_by_id(trial_id, session).study_id)
