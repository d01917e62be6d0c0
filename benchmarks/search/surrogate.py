"""What the landscape says about networks that nobody trained, and how sure that is.

A surrogate is fitted to the trainings with the first seed.  It never stands for the truth by
itself: each simulated study gets a truth of its own, drawn from all that agree with the table,
so that what the table leaves open shows as spread between studies, and no search gains by
knowing the model.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import spearmanr
from sklearn.base import RegressorMixin
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.kernel_approximation import RBFSampler
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.search.features import Floats

Family = Literal["process", "forest"]
Truth = Callable[[Floats], Floats]

_FOLDS = 10
_WAVES = 1_000  # random Fourier features, of which a process is drawn
_TREES = 60


@dataclass(frozen=True)
class Quality:
    """`spearman` of k-fold predictions with single trainings; `ceiling` is what the noise of
    those leaves to any predictor (the square root of their reliability: Spearman, 1904).
    `error` is the standard deviation of the predictions' errors, noise included."""

    spearman: float
    ceiling: float
    error: float


def quality(family: Family, rows: Floats, accuracies: Floats, noise: float) -> Quality:
    """How well that family predicts what it has not seen; `noise` is between seeds."""
    folds = KFold(_FOLDS, shuffle=True, random_state=0)
    reliability = 1 - noise**2 / float(np.var(accuracies, ddof=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of a length at a bound
        model = _model(family, max(0.0, 1 - reliability))
        predicted = cross_val_predict(model, rows, accuracies, cv=folds)
    return Quality(
        float(spearmanr(predicted, accuracies).statistic),
        math.sqrt(max(0.0, reliability)),
        float(np.sqrt(np.mean((predicted - accuracies) ** 2))),
    )


class Surrogate:
    """Fitted once; `truth` draws what a simulated world is.  `rough` is the standard deviation
    of what is a network's own: no search can learn it but by training that network."""

    def __init__(self, family: Family, rows: Floats, accuracies: Floats, noise: float) -> None:
        self.quality = quality(family, rows, accuracies, noise)
        self._family = family
        self._rows, self._accuracies = rows, accuracies
        unseen = self.quality.error
        if family == "process":
            self._scaler = StandardScaler().fit(rows)
            self._scaled = self._scaler.transform(rows)
            self._process = _process((noise / float(np.std(accuracies))) ** 2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                self._process.fit(self._scaled, accuracies)
            unseen = math.sqrt(self._process.kernel_.k2.noise_level) * float(np.std(accuracies))
        self.rough = math.sqrt(max(0.0, unseen**2 - noise**2))

    def truth(self, seed: int) -> Truth:
        """A function from rows of features to accuracies that the table could come from."""
        return self._forest(seed) if self._family == "forest" else self._path(seed)

    def _forest(self, seed: int) -> Truth:
        """Trees grown on a bootstrap sample of the networks."""
        chosen = np.random.default_rng(seed).integers(0, len(self._rows), len(self._rows))
        forest = _forest(seed).fit(self._rows[chosen], self._accuracies[chosen])
        trees = [tree.tree_ for tree in forest.estimators_]

        def truth(rows: Floats) -> Floats:
            narrow = np.ascontiguousarray(rows, dtype=np.float32)
            return np.asarray(np.mean([tree.predict(narrow)[:, 0] for tree in trees], axis=0))

        return truth

    def _path(self, seed: int) -> Truth:
        """A sample path of the posterior, by Matheron's rule (Wilson et al., 2002.09309)."""
        rng = np.random.default_rng(seed)
        fitted = self._process.kernel_
        amplitude, smooth = math.sqrt(fitted.k1.k1.constant_value), fitted.k1.k2
        waves = RBFSampler(
            gamma=0.5 / smooth.length_scale**2, n_components=_WAVES, random_state=seed
        ).fit(self._scaled)
        weights = amplitude * rng.standard_normal(_WAVES)
        mean, scale = float(np.mean(self._accuracies)), float(np.std(self._accuracies))
        white = math.sqrt(fitted.k2.noise_level)
        missed = (self._accuracies - mean) / scale - waves.transform(self._scaled) @ weights
        missed -= white * rng.standard_normal(len(missed))
        correction = np.linalg.solve(fitted(self._scaled), missed)

        def truth(rows: Floats) -> Floats:
            scaled = self._scaler.transform(rows)
            found = waves.transform(scaled) @ weights
            found += fitted.k1(scaled, self._scaled) @ correction
            return np.asarray(mean + scale * found)

        return truth


def _model(family: Family, noise: float) -> RegressorMixin:
    return _forest(0) if family == "forest" else make_pipeline(StandardScaler(), _process(noise))


def _process(noise: float) -> GaussianProcessRegressor:
    """`noise` is the share of the variance that seeds make; a network's own adds to it.
    Length scales of tens: standardized rows of d numbers lie about sqrt(2 d) apart."""
    kernel = ConstantKernel(1.0, (0.05, 20.0)) * RBF(10.0, (2.0, 100.0))
    low = min(max(noise, 0.01), 1.0)
    white = WhiteKernel(max(0.3, low), (low, 2.0))
    return GaussianProcessRegressor(kernel + white, normalize_y=True)


def _forest(seed: int) -> ExtraTreesRegressor:
    return ExtraTreesRegressor(_TREES, min_samples_leaf=2, max_features=0.4, random_state=seed)
