"""What Optuna calls when a trial has ended."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.storage.trials import Attributes

log = logging.getLogger(__name__)

_FACTS = ("parameters", "macs", "receptive_field", "seconds", "pflop")


class Tracker(ABC):
    """Writes the trials that end below `runs`, the study's directory, which has its name.

    `name` is what a study file calls it by, and the extra that brings its `package`.
    """

    name: ClassVar[str]
    package: ClassVar[str]

    def __init__(self, runs: Path) -> None:
        self.runs = runs

    @abstractmethod
    def write(self, trial: FrozenTrial) -> None:
        """Writes a trial: completed, pruned or failed."""

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        try:
            self.write(trial)
        except Exception as error:  # the training is done, whatever its tracker stumbles over
            log.warning("trial %d is not in %s: %s", trial.number, self.name, error)


def called(trial: FrozenTrial) -> str:
    """What a trial is called: names sort as numbers do."""
    return f"trial-{trial.number:06d}"


def curves(trial: FrozenTrial) -> Iterator[tuple[int, dict[str, float]]]:
    """Each epoch, from 1, and what was measured in it."""
    for record in Attributes.of(trial).history or ():
        measured = {k: v for k, v in record.items() if v is not None and math.isfinite(v)}
        yield record["epoch"], {f"epoch/{k}": v for k, v in measured.items() if k != "epoch"}


def facts(trial: FrozenTrial) -> dict[str, float]:
    """What it came to; where it completed, its last accuracies, too."""
    carried = Attributes.of(trial)
    found = {key: getattr(carried, key) for key in _FACTS}
    numbers = {f"trial/{key}": float(v) for key, v in found.items() if v is not None}
    if trial.state != TrialState.COMPLETE:
        return numbers
    last = (carried.history or [{}])[-1]
    shares = {key: last.get(key) for key in ("accuracy", "balanced_accuracy")}
    return numbers | {f"trial/{key}": v for key, v in shares.items() if v is not None}


def choices(trial: FrozenTrial) -> dict[str, object]:
    """Its choices, and how it ended."""
    return {**trial.params, "state": trial.state.name.lower()}
