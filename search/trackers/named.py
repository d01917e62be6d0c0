"""The trackers that a study file may name."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from search.errors import ConfigError
from search.trackers.mlflow import MLflow
from search.trackers.tensorboard import TensorBoard
from search.trackers.tracker import Tracker
from search.trackers.wandb import WandB

TRACKERS: dict[str, type[Tracker]] = {kind.name: kind for kind in (TensorBoard, MLflow, WandB)}


def require_trackers(names: Sequence[str]) -> None:
    """Accepts trackers whose packages are here.

    Raises:
        ConfigError: one is not, or there is none of that name.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"study.track: must be among {', '.join(TRACKERS)} (got {name!r})")
        if importlib.util.find_spec(TRACKERS[name].package) is None:
            raise ConfigError(
                f"study.track: {name} needs a package: pip install 'c1c4-search[{name}]'"
            )


def trackers(names: Sequence[str], runs: Path) -> list[Tracker]:
    """Those that a study names."""
    return [TRACKERS[name](runs) for name in names]
