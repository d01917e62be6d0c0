"""Who may train which trial: claims, and the budget of trials.

What a study must not lose lies in its database, so everything that decides which trial may
start, and who works on it, happens here inside one database transaction.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from search.storage.identity import identity
from search.storage.internals import models, transaction
from search.storage.patience import patient, reading
from search.storage.places import Place
from search.storage.trials import FINALIST, GIVEN, MODULE, TAKEN, WORKER, Attributes
from search.storage.writes import WritingStorage

UNCOUNTED = (FINALIST, GIVEN, TAKEN)
"""Attributes of trials that do not count towards the budget."""

_TRAINED = (TrialState.COMPLETE, TrialState.PRUNED)


class BudgetSpentError(Exception):
    """As many trials as the study may have are finished, running or waiting."""


class _OvertakenError(Exception):
    """Another worker has queued the training of a finalist that this one wanted to."""


class ClaimLostError(Exception):
    """Another worker has taken the trial over: this one's has no say in it any more."""


class ClaimingStorage(WritingStorage):
    """A storage that knows who works on a trial.

    `trials` bounds how many trials may be trained (complete or pruned), over all workers and
    resumes; None does not bound.  Trainings of finalists do not count, nor networks that were
    given or taken over.  While `finals` holds this process may claim the first alone, before
    only the others; where `only` is the number of a trial, that one and no other.  Of trials
    whose network is code it may claim those of `modules`.
    """

    def __init__(self, place: Place, *, heartbeat: int, grace: int) -> None:
        self.trials: int | None = None
        self.finals = False
        self.only: int | None = None
        self.modules: frozenset[str] = frozenset()
        self._claims: dict[int, Mapping[str, Any]] = {}  # of this process, by the trial's id
        super().__init__(place, heartbeat=heartbeat, grace=grace)

    # What a study's budget and queue allow

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        self._thread.begun = None
        if template_trial is None:
            return self._begin_trial(study_id)
        return super()._create_new_trial(study_id, template_trial)

    @patient
    def _begin_trial(self, study_id: int) -> FrozenTrial:
        return super()._create_new_trial(study_id)

    def _arrived(self, session: sa.orm.Session) -> models.TrialModel | None:
        """What this thread had begun when the connection dropped, if that was committed."""
        begun = self._thread.begun
        trial = session.get(models.TrialModel, begun) if begun is not None else None
        mine = trial is not None and self._owner(session, trial) == self._claims.get(begun)
        return trial if mine else None

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: sa.orm.Session
    ) -> models.TrialModel:
        """Runs under the lock on the study's row.

        Raises:
            BudgetSpentError: a fresh trial would be one too many.
        """
        if template_trial is None:
            if arrived := self._arrived(session):
                return arrived
            if self.finals or self.only is not None:
                raise BudgetSpentError("no trial of the search is asked for")
            self._require_room(
                session, study_id, (*_TRAINED, TrialState.RUNNING, TrialState.WAITING)
            )
        elif (finalist := Attributes.of(template_trial).finalist) is not None:
            found = trials_of(session, study_id, with_any=(FINALIST,)).count()
            if found != finalist["index"]:
                raise _OvertakenError
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        if trial.state == TrialState.RUNNING:
            self._occupy(session, trial)
            self._thread.begun = int(trial.trial_id)
        return trial

    @patient
    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        """False, and nothing is written, where another worker has the trial by now."""
        if state == TrialState.RUNNING:
            return self._claim(trial_id)
        with transaction(self.scoped_session) as session:
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            claim = self._claims.get(trial_id)
            arrived = claim is not None and trial.state == state  # before the connection dropped
            if claim is not None and self._owner(session, trial) != claim:
                return False
            if claim is not None and not arrived and trial.state != TrialState.RUNNING:
                return False
            if not arrived:  # in this thread's transaction, which it ends
                super().set_trial_state_values(trial_id, state, values)
        self._claims.pop(trial_id, None)
        return True

    def _claim(self, trial_id: int) -> bool:
        with transaction(self.scoped_session) as session:
            study_id = (
                session.query(models.TrialModel.study_id).filter_by(trial_id=trial_id).scalar()
            )
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            if trial.state == TrialState.RUNNING and trial_id in self._claims:
                # Before the connection dropped; another's claim is another one.
                return bool(self._owner(session, trial) == self._claims[trial_id])
            if trial.state != TrialState.WAITING or not self._may_claim(session, trial):
                return False
            trial.state = TrialState.RUNNING
            trial.datetime_start = datetime.now()
            self._occupy(session, trial)
            return True

    def _may_claim(self, session: sa.orm.Session, trial: models.TrialModel) -> bool:
        find = models.TrialUserAttributeModel.find_by_trial_and_key
        module = json.loads(text_of(find(trial, MODULE, session)))
        if module is not None and module not in self.modules:
            return False
        if self.only is not None:
            return bool(trial.number == self.only)
        if (find(trial, FINALIST, session) is not None) != self.finals:
            return False
        if self.finals or find(trial, GIVEN, session) is not None:
            return True
        try:
            self._require_room(session, int(trial.study_id), (*_TRAINED, TrialState.RUNNING))
        except BudgetSpentError:
            return False
        return True

    def _require_room(
        self, session: sa.orm.Session, study_id: int, states: tuple[TrialState, ...]
    ) -> None:
        if self.trials is None:
            return
        trials = trials_of(session, study_id, without=UNCOUNTED)
        found = trials.filter(models.TrialModel.state.in_(states)).count()
        if found >= self.trials:
            raise BudgetSpentError(f"{found} of {self.trials} trials are taken")

    def queue_finalist(self, study_id: int, template: FrozenTrial) -> None:
        """Queues the training of a finalist, unless there is another of its index."""
        with suppress(_OvertakenError):
            self.create_new_trial(study_id, template)

    def _occupy(self, session: sa.orm.Session, trial: models.TrialModel) -> None:
        # The first heartbeat belongs to the claim: a trial without one is never stale to Optuna.
        session.query(models.TrialHeartbeatModel).filter_by(trial_id=trial.trial_id).delete()
        session.add(models.TrialHeartbeatModel(trial_id=trial.trial_id))
        before = self._owner(session, trial)
        earlier = [*before.get("earlier", []), before.get("claim", "")] if before else []
        worker = {**identity(), "claim": uuid.uuid4().hex[:8], "earlier": earlier}
        self._note(session, int(trial.trial_id), Attributes(worker=worker))
        self._claims[int(trial.trial_id)] = worker

    def _note(self, session: sa.orm.Session, trial_id: int, attributes: Attributes) -> None:
        for name, value in attributes.items():
            self._set_trial_attr_without_commit(
                session, models.TrialUserAttributeModel, trial_id, name, value
            )

    @patient
    @reading
    def owns(self, trial_id: int, worker: Mapping[str, Any] | None) -> bool:
        """Whether the trial still runs under the claim `worker` (its user attribute)."""
        with transaction(self.scoped_session) as session:
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session)
            return bool(trial.state == TrialState.RUNNING and self._owner(session, trial) == worker)

    def has_lost(self, trial_id: int) -> bool:
        """Whether this process has begun the trial and not ended it, and may not do so any more."""
        claim = self._claims.get(trial_id)
        return claim is not None and not self.owns(trial_id, claim)

    def require_claim(self, session: sa.orm.Session, trial: models.TrialModel) -> None:
        """Raises where this process has begun the trial, but another works on it by now.

        Raises:
            ClaimLostError: its heartbeat looked old, and others queued the trial again.
        """
        claim = self._claims.get(int(trial.trial_id))
        if claim is None:
            return
        if trial.state != TrialState.RUNNING or self._owner(session, trial) != claim:
            raise ClaimLostError(f"another worker has taken trial {trial.number} over")

    def _owner(self, session: sa.orm.Session, trial: models.TrialModel) -> Any:
        attribute = models.TrialUserAttributeModel
        return json.loads(text_of(attribute.find_by_trial_and_key(trial, WORKER, session)))


def trials_of(
    session: sa.orm.Session,
    study_id: int,
    *,
    with_any: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Any:
    """A query for the trials that have an attribute of `with_any`, or none of `without`."""
    attribute, trial = models.TrialUserAttributeModel, models.TrialModel
    named = sa.exists().where(
        attribute.trial_id == trial.trial_id, attribute.key.in_((*with_any, *without))
    )
    trials = session.query(trial).filter(trial.study_id == study_id)
    return trials.filter(named if with_any else ~named)


def text_of(attribute: Any) -> str:
    """The JSON of an attribute's row; that of None where there is no row."""
    return str(attribute.value_json) if attribute is not None else "null"
