"""What the samplers take from Optuna without its promise: an upgrade that moves it fails here."""

from __future__ import annotations

import inspect

import numpy as np
import optuna
import pytest
from optuna._gp.acqf import BaseAcquisitionFunc
from optuna._gp.search_space import SearchSpace
from optuna.distributions import FloatDistribution
from optuna.samplers import GPSampler, TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator

from search.proposals.internals import METHODS, SearchSpaceTransform, queued_with

SIGNATURES = {
    (TPESampler, "_build_parzen_estimator"): "study search_space trials handle_below",
    (GPSampler, "_sample_relative_impl"): "study completed_trials running_trials search_space",
    (GPSampler, "_optimize_acqf"): "acqf best_params",
    (_ParzenEstimator, "sample"): "rng size",
    (_ParzenEstimator, "log_pdf"): "samples_dict",
    (BaseAcquisitionFunc, "eval_acqf_no_grad"): "x",
    (SearchSpace, "get_normalized_params"): "trials trial_params",
}


@pytest.mark.parametrize(("owner", "name"), SIGNATURES)
def test_a_method_is_there_and_takes_what_it_took(owner: type, name: str) -> None:
    parameters = [*inspect.signature(getattr(owner, name)).parameters][1:]
    assert parameters == SIGNATURES[owner, name].split()


def test_the_overridden_ones_are_among_them() -> None:
    assert METHODS.keys() <= SIGNATURES.keys()


def test_the_transform_goes_there_and_back() -> None:
    space = SearchSpaceTransform(
        {"x": FloatDistribution(1, 3)}, transform_step=True, transform_0_1=True
    )
    assert space.untransform(space.transform({"x": 2.0})) == {"x": 2.0}
    assert np.array_equal(space.bounds, [[0, 1]])


def test_a_trial_tells_what_it_was_queued_with() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"x": 2.0})
    assert queued_with(study.trials[0]) == queued_with(study.ask()) == {"x": 2.0}
    assert queued_with(study.ask()) == {}
