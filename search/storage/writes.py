"""Writes to a study's database that are made together.

Optuna writes every parameter, attribute and report of a trial in a transaction of its own,
each of which looks the trial up again.  Together they cost a fifth of that.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
)
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import Study
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from search.errors import MachineError
from search.storage.connection import PatientStorage
from search.storage.internals import backend, models, transaction
from search.storage.patience import light, patient

Attribute = (
    type[models.TrialUserAttributeModel]
    | type[models.TrialSystemAttributeModel]
    | type[models.StudyUserAttributeModel]
    | type[models.StudySystemAttributeModel]
)
Parameter = tuple[float, BaseDistribution, BaseDistribution | None]

UNHEARD = (StorageInternalError, SQLAlchemyError, MachineError, KeyError)
"""What a heartbeat that fails may say: another follows it, and a storage that is lost, or a study
that is deleted, ends the trial itself."""


class WritingStorage(PatientStorage):
    """A storage whose writes may wait for each other."""

    @contextmanager
    def together(self) -> Iterator[Writes]:
        """Makes this thread's writes of parameters, attributes and reports, while it lasts, in
        one transaction at its end, whatever ends it.

        Reads do not see them before; the `Trial` that wrote them does.
        """
        waiting: Writes | None = getattr(self._thread, "writes", None)
        if waiting is not None:
            yield waiting
            return
        self._thread.writes = writes = Writes()
        try:
            yield writes
        finally:
            self._thread.writes = None
            for part in writes.parts():
                if part:
                    self._write(part)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within `together`, lets this thread's writes, while it lasts, not wait: what others must
        see before they go on."""
        waiting: Writes | None = getattr(self._thread, "writes", None)
        self._thread.writes = None
        try:
            yield
        finally:
            self._thread.writes = waiting

    @patient
    def _write(self, writes: Writes) -> None:
        self._thread.kind = "ordinary" if writes.durable else "light"
        try:
            # A write that is repeated, but did arrive before, meets its own rows: it is done.
            with (
                transaction(self.scoped_session, True) as session,
                session.no_autoflush,
            ):
                writes.write(session, self)
        finally:
            self._thread.kind = "ordinary"

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        with self.together() as writes:
            writes.attribute(models.StudyUserAttributeModel, study_id, key, value)
            writes.durable = True

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        with self.together() as writes:
            writes.attribute(models.StudySystemAttributeModel, study_id, key, value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self.together() as writes:
            writes.attribute(models.TrialUserAttributeModel, trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self.together() as writes:
            writes.attribute(models.TrialSystemAttributeModel, trial_id, key, value)

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        with self.together() as writes:
            writes.report(trial_id, step, intermediate_value)

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        parameter = (param_value_internal, distribution, previous_distribution)
        with self.together() as writes:
            writes.parameter(trial_id, param_name, parameter)

    @light
    def record_heartbeat(self, trial_id: int) -> None:
        with suppress(*UNHEARD):
            super().record_heartbeat(trial_id)

    def require_claim(self, session: Session, trial: models.TrialModel) -> None:
        """Raises where this process may not write to the trial; here it always may."""


def at_once(study: Study) -> AbstractContextManager[None]:
    """`WritingStorage.at_once` of the storage of `study`; where that is another, no write waits."""
    storage = backend(study)
    return storage.at_once() if isinstance(storage, WritingStorage) else nullcontext()


class Writes:
    """Writes that wait; of several to one place the last counts.

    `durable` says that they must be on the disk when the transaction has ended.
    """

    def __init__(self) -> None:
        self.durable = False
        self._attributes: dict[tuple[Attribute, int], dict[str, str]] = defaultdict(dict)
        self._parameters: dict[int, dict[str, Parameter]] = defaultdict(dict)
        self._reports: dict[int, dict[int, float]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._attributes) + len(self._parameters) + len(self._reports)

    def attribute(self, model: Attribute, owner: int, key: str, value: object) -> None:
        """An attribute of the trial or study whose id is `owner`.

        Raises:
            TypeError: JSON cannot hold `value`.
        """
        self._attributes[model, owner][key] = json.dumps(value)

    def parameter(self, trial_id: int, name: str, parameter: Parameter) -> None:
        """A parameter: its value as stored, its distribution, and that of earlier trials."""
        self._parameters[trial_id][name] = parameter

    def report(self, trial_id: int, step: int, value: float) -> None:
        """What a trial reports for a step."""
        self._reports[trial_id][step] = value

    def parts(self) -> tuple[Writes, Writes]:
        """The writes to trials, and those to studies.

        Two workers may add one attribute of a study at the same time: the later one meets
        the other's row, and must lose no more than that write.
        """
        trials, studies = Writes(), Writes()
        trials.durable = studies.durable = self.durable
        for (model, owner), values in self._attributes.items():
            part = trials if hasattr(model, "trial_id") else studies
            part._attributes[model, owner] = values
        trials._parameters, trials._reports = self._parameters, self._reports
        return trials, studies

    def write(self, session: Session, storage: WritingStorage) -> None:
        """Makes the writes in the transaction of `session`.

        Raises:
            UpdateFinishedTrialError: a trial among them has ended.
            ClaimLostError: another worker has taken one over.
        """
        trials = {owner for model, owner in self._attributes if hasattr(model, "trial_id")}
        for trial_id in trials | self._parameters.keys() | self._reports.keys():
            # Locked: nobody takes the trial over between this look and the writes.
            trial: Any = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            storage.require_claim(session, trial)
            storage.check_trial_is_updatable(trial_id, trial.state)
        for (model, owner), values in self._attributes.items():
            _put(session, model, owner, values)
        for trial_id, parameters in self._parameters.items():
            for name, parameter in parameters.items():
                _add(session, storage, trial_id, name, parameter)
        for trial_id, reports in self._reports.items():
            _report(session, trial_id, reports)


def _add(
    session: Session, storage: RDBStorage, trial_id: int, name: str, parameter: Parameter
) -> None:
    value, distribution, before = parameter
    if before is None:  # the first of this process: Optuna looks for one of another
        storage._set_trial_param_without_commit(session, trial_id, name, *parameter)
        return
    check_distribution_compatibility(before, distribution)
    text = distribution_to_json(distribution)
    session.add(
        models.TrialParamModel(
            trial_id=trial_id, param_name=name, param_value=value, distribution_json=text
        )
    )


def _put(session: Session, model: Attribute, owner: int, values: Mapping[str, str]) -> None:
    column = "trial_id" if hasattr(model, "trial_id") else "study_id"
    table: Any = model
    found = session.query(table).filter(getattr(table, column) == owner, table.key.in_(values))
    known = {row.key: row for row in found}
    for key, value in values.items():
        if key in known:
            known[key].value_json = value
        else:
            session.add(table(**{column: owner}, key=key, value_json=value))


def _report(session: Session, trial_id: int, values: Mapping[int, float]) -> None:
    table: Any = models.TrialIntermediateValueModel
    found = session.query(table).filter(table.trial_id == trial_id, table.step.in_(values))
    known = {row.step: row for row in found}
    for step, value in values.items():
        row = known.get(step) or table(trial_id=trial_id, step=step)
        stored, kind = table.intermediate_value_to_stored_repr(value)
        row.intermediate_value, row.intermediate_value_type = stored, kind
        session.add(row)
