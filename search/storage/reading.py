"""A study's trials, read as rows: by objects, as Optuna reads them, it takes five times as long."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

import sqlalchemy as sa
from optuna.distributions import json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session

from search.errors import MachineError
from search.storage.internals import models

Row = TypeVar("Row")

_SOME = 1_000
"""As many ids may stand in one question; databases bound that."""


def read_trials(
    session: Session,
    study_id: int,
    states: Container[TrialState] | None,
    known: set[int],
    last: int,
) -> list[FrozenTrial]:
    """The trials with ids in `known` or beyond `last`, in the order of their ids.

    Only those in `states`, unless that is None.
    """
    trials = models.TrialModel.__table__.c
    asked = {trial_id for trial_id in known if trial_id <= last}
    wanted = (trials.trial_id > last) | trials.trial_id.in_(asked)
    if len(asked) > _SOME:
        wanted = trials.trial_id >= min(asked)
    wanted &= trials.study_id == study_id
    columns = ("trial_id", "number", "state", "datetime_start", "datetime_complete")
    rows = session.execute(
        sa.select(*(trials[name] for name in columns)).where(wanted).order_by(trials.trial_id)
    ).all()
    chosen = [
        row
        for row in rows
        if (row.trial_id > last or row.trial_id in asked)
        and (states is None or row.state in states)
    ]
    parts = _Parts(session, sa.select(trials.trial_id).where(wanted)) if chosen else None
    return [parts.trial(row) for row in chosen] if parts else []


class _Parts:
    """What belongs to the trials whose ids `wanted` selects, by trial."""

    def __init__(self, session: Session, wanted: sa.Select[Any]) -> None:
        def rows(model: Any, *columns: str) -> dict[int, list[Any]]:
            table = model.__table__.c
            found = session.execute(
                sa.select(*(table[name] for name in ("trial_id", *columns)))
                .where(table.trial_id.in_(wanted))
                .order_by(next(iter(table)))  # the key: in the order in which they were written
            )
            grouped: dict[int, list[Any]] = defaultdict(list)
            for trial_id, *row in found:
                grouped[trial_id].append(row)
            return grouped

        self._values = rows(models.TrialValueModel, "objective", "value", "value_type")
        self._params = rows(
            models.TrialParamModel, "param_name", "param_value", "distribution_json"
        )
        self._user = rows(models.TrialUserAttributeModel, "key", "value_json")
        self._system = rows(models.TrialSystemAttributeModel, "key", "value_json")
        self._reports = rows(
            models.TrialIntermediateValueModel,
            "step",
            "intermediate_value",
            "intermediate_value_type",
        )

    def trial(self, row: Any) -> FrozenTrial:
        params = [
            (name, value, _distribution(text)) for name, value, text in self._params[row.trial_id]
        ]
        value = models.TrialValueModel.stored_repr_to_value
        report = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
        return FrozenTrial(
            number=row.number,
            state=row.state,
            value=None,
            values=[value(v, kind) for _, v, kind in sorted(self._values[row.trial_id])] or None,
            datetime_start=_local(row.datetime_start),
            datetime_complete=_local(row.datetime_complete),
            params={name: kind.to_external_repr(value) for name, value, kind in params},
            distributions={name: kind for name, _, kind in params},
            user_attrs=_attributes(row.number, self._user[row.trial_id]),
            system_attrs=_attributes(row.number, self._system[row.trial_id]),
            intermediate_values={
                step: report(v, kind) for step, v, kind in self._reports[row.trial_id]
            },
            trial_id=row.trial_id,
        )


_distribution = cache(json_to_distribution)


def _attributes(number: int, rows: Iterable[tuple[str, str]]) -> dict[str, Any]:
    found = {}
    for key, text in rows:
        try:
            found[key] = json.loads(text)
        except (TypeError, ValueError):
            raise MachineError(
                f"trial {number}: its attribute {key} is no JSON; restore a copy of the database, "
                "or delete the study"
            ) from None
    return found


def _local(utc: datetime | None) -> datetime | None:
    """The database's time on this machine's clock, as Optuna shows it."""
    return utc and utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
