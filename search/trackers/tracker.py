"""What Optuna calls when a trial has ended."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import optuna
from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)


class Tracker(ABC):
    """Writes the trials that end below `runs`, the study's directory.

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
