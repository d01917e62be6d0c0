"""Trials that nobody works on any more, and how they return to the queue."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from search.storage.claims import ClaimingStorage, text_of
from search.storage.identity import is_gone
from search.storage.internals import models, transaction
from search.storage.patience import patient
from search.storage.trials import ARCHITECTURE, DEATHS, WORKER, Attributes

LIVES = 3
"""How many workers a trial may take down before it is failed instead of queued again."""


class RecoveringStorage(ClaimingStorage):
    """A storage in which trials survive their workers.

    A trial that loses its worker returns to the queue under its own number, with its
    parameters, attributes and reports; its worker counts as lost when its process is gone
    (same machine) or its heartbeat has been silent for the grace period (any machine).  If it
    lives all the same, it can write nothing more to the trial.
    """

    _silent = patient(RDBStorage._get_stale_trial_ids)

    @patient
    def requeue(self, trial_id: int, worker: Mapping[str, Any] | None) -> bool:
        """Returns a trial to the queue as it is; False unless it runs under the claim `worker`."""
        with transaction(self.scoped_session) as session:
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            if trial.state != TrialState.RUNNING or self._owner(session, trial) != worker:
                return False
            self._release(session, trial)
        return True

    def _release(self, session: sa.orm.Session, trial: models.TrialModel) -> None:
        trial.state = TrialState.WAITING
        # The objective notes the architecture once all parameters are chosen.
        if (
            models.TrialUserAttributeModel.find_by_trial_and_key(trial, ARCHITECTURE, session)
            is None
        ):
            # Half a candidate completed by another proposal would be one nobody checked.
            session.query(models.TrialParamModel).filter_by(trial_id=trial.trial_id).delete()

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Queues abandoned trials again; answers with none, for Optuna would fail them.

        Optuna calls this before each trial.
        """
        self.recover(study_id)
        return []

    def recover(self, study_id: int) -> int:
        """Queues again every running trial whose worker is lost; answers with their number."""
        silent = set(self._silent(study_id))
        lost = [
            (trial_id, worker)
            for trial_id, worker in self._running(study_id)
            if trial_id in silent or is_gone(worker or {})
        ]
        return sum(self._recover(trial_id, worker) for trial_id, worker in lost)

    @patient
    def _running(self, study_id: int) -> list[tuple[int, Any]]:
        attribute = models.TrialUserAttributeModel
        with transaction(self.scoped_session) as session:
            rows = (
                session.query(models.TrialModel.trial_id, attribute.value_json)
                .outerjoin(
                    attribute,
                    sa.and_(
                        attribute.trial_id == models.TrialModel.trial_id, attribute.key == WORKER
                    ),
                )
                .filter(
                    models.TrialModel.study_id == study_id,
                    models.TrialModel.state == TrialState.RUNNING,
                )
                .all()
            )
            return [(row[0], json.loads(row[1] or "null")) for row in rows]

    @patient
    def _recover(self, trial_id: int, worker: Mapping[str, Any] | None) -> bool:
        with transaction(self.scoped_session) as session:
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            if trial.state != TrialState.RUNNING or self._owner(session, trial) != worker:
                return False  # another worker was faster
            known = models.TrialUserAttributeModel.find_by_trial_and_key(trial, DEATHS, session)
            deaths = 1 + (json.loads(text_of(known)) or 0)
            self._note(session, trial_id, Attributes(deaths=deaths))
            if deaths < LIVES:
                self._release(session, trial)
            else:
                failure = f"its worker died {deaths} times"
                self._note(session, trial_id, Attributes(failure=failure))
                trial.state = TrialState.FAIL
                trial.datetime_complete = datetime.now()
            return True
