"""What the samplers use of Optuna that Optuna does not promise; nothing else here does.

`tests/proposals/test_internals.py` holds their signatures; `pyproject.toml` allows only
releases on which that test has passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna._transform import _SearchSpaceTransform as SearchSpaceTransform
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, Trial

__all__ = ["METHODS", "SearchSpaceTransform", "queued_with"]

METHODS: Mapping[tuple[type[BaseSampler], str], str] = {
    (TPESampler, "_build_parzen_estimator"): "fits the density that is cut to what is legal",
    (GPSampler, "_sample_relative_impl"): "chooses the trials that the process is fitted to",
    (GPSampler, "_optimize_acqf"): "looks for the best point, which must be a legal one",
}
"""Methods of Optuna's samplers that are overridden, and why."""


def queued_with(trial: Trial | FrozenTrial) -> Mapping[str, Any]:
    """The parameters that `Study.enqueue_trial` fixed for a trial."""
    fixed: Mapping[str, Any] = (
        trial._fixed_params
        if isinstance(trial, Trial)
        else trial.system_attrs.get("fixed_params", {})
    )
    return fixed
