"""Optuna's samplers, taught to choose among survivors.

Each is built for one trial, from a seed and that trial's `Draws`.  Some need no teaching; of
the others the expensive part, the fit, is done once per trial, and the draws from it are
judged as they are made.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from search.draws import Draws
from search.proposals import Acceptance, Choices, InfeasibleError

Distributions = dict[str, BaseDistribution]
Floats = NDArray[np.float64]

# Where the sequences of qmc and grid stand, as a system attribute of the study.
_POSITION = "feasible:position"


class FeasibleTPE(TPESampler):
    """TPE whose density of good trials is restricted to survivors.

    Restricting both densities to the legal set divides each by a constant, so their ratio
    ranks survivors as plain TPE would.  The densities are fitted to the newest `_WINDOW`
    trials of each side, which bounds the cost in long studies.
    """

    _WINDOW = 500

    def __init__(self, seed: int, draws: Draws) -> None:
        super().__init__(seed=seed, multivariate=True, group=False, constant_liar=True)
        self._draws = draws

    def _build_parzen_estimator(
        self,
        study: Study,
        search_space: Distributions,
        trials: list[FrozenTrial],
        handle_below: bool,
    ) -> Any:
        estimator = super()._build_parzen_estimator(
            study, search_space, trials[-self._WINDOW :], handle_below
        )
        return _Survivors(estimator, search_space, self._draws) if handle_below else estimator


class _Survivors:
    """A Parzen estimator that gives only samples which survive, as long as it finds any."""

    _BATCH = 32
    # Draws after which fewer survivors than asked for will do, and after which none will.
    _ENOUGH = 500
    _HOPELESS = 2_000

    def __init__(self, estimator: Any, space: Distributions, draws: Draws) -> None:
        self._estimator = estimator
        self._space = space
        self._draws = draws

    def sample(self, rng: np.random.RandomState, size: int) -> dict[str, Floats]:
        survivors: list[Choices] = []
        drawn = 0
        while drawn < (self._ENOUGH if survivors else self._HOPELESS):
            batch = self._estimator.sample(rng, self._BATCH)
            drawn += self._BATCH
            for index in range(self._BATCH):
                survivor = self._draws.judge(self._external(batch, index))
                if survivor is not None:
                    survivors.append(survivor)
                if len(survivors) == size:
                    return self._internal(survivors)
        return self._internal(survivors) if survivors else batch

    def log_pdf(self, samples: dict[str, Floats]) -> Floats:
        return np.asarray(self._estimator.log_pdf(samples), dtype=float)

    def _external(self, batch: Mapping[str, Floats], index: int) -> Choices:
        return {
            name: distribution.to_external_repr(batch[name][index].item())
            for name, distribution in self._space.items()
        }

    def _internal(self, survivors: Sequence[Choices]) -> dict[str, Floats]:
        return {
            name: np.array([distribution.to_internal_repr(s[name]) for s in survivors])
            for name, distribution in self._space.items()
        }


class FeasibleGP(GPSampler):
    """Gaussian-process search whose acquisition function is maximized over survivors.

    The survivors are mutations of finished trials and uniform draws, then mutations of
    the best of these.  The process is fitted to the newest and the best trials, `_WINDOW`
    together, since its cost grows with their cube.
    """

    _WINDOW = 150
    _FIRST = 256
    _ROUNDS = 4
    _PARENTS = 8
    _CHILDREN = 8

    def __init__(self, seed: int, draws: Draws) -> None:
        super().__init__(seed=seed, warn_independent_sampling=False)
        self._draws = draws
        self._parents: list[FrozenTrial] = []

    def _sample_relative_impl(
        self,
        study: Study,
        completed_trials: list[FrozenTrial],
        running_trials: list[FrozenTrial],
        search_space: Distributions,
    ) -> dict[str, Any]:
        self._parents = _newest_and_best(completed_trials, study.directions, self._WINDOW)
        return super()._sample_relative_impl(
            study, self._parents, running_trials[-self._WINDOW :], search_space
        )

    def _optimize_acqf(self, acqf: Any, best_params: Floats | None) -> Floats:
        pool = self._first_pool()
        if not pool:
            return super()._optimize_acqf(acqf, best_params)
        for _ in range(self._ROUNDS):
            values = self._values(acqf, pool)
            best = [pool[i] for i in np.argsort(-values)[: self._PARENTS]]
            pool = best + self._neighbors(best, self._CHILDREN)
        best_of_all = int(np.argmax(self._values(acqf, pool)))
        return np.asarray(self._normalized(acqf, pool)[best_of_all])

    def _first_pool(self) -> list[Choices]:
        uniform = [self._draws.judge({}) for _ in range(self._FIRST // 2)]
        near = [t.params for t in self._parents]
        children = self._neighbors(near, math.ceil(self._FIRST / 2 / len(near)))
        return [choices for choices in uniform if choices is not None] + children

    def _neighbors(self, parents: Sequence[Mapping[str, Any]], each: int) -> list[Choices]:
        found = [self._draws.neighbor(parent) for parent in parents for _ in range(each)]
        return [choices for choices in found if choices is not None]

    def _values(self, acqf: Any, pool: Sequence[Choices]) -> Floats:
        return np.asarray(acqf.eval_acqf_no_grad(self._normalized(acqf, pool)), dtype=float)

    @staticmethod
    def _normalized(acqf: Any, pool: Sequence[Choices]) -> Floats:
        return np.asarray(acqf.search_space.get_normalized_params([None] * len(pool), pool))


def _newest_and_best(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], size: int
) -> list[FrozenTrial]:
    """At most `size` trials: half of them the newest, half the best by each objective."""
    if len(trials) <= size:
        return list(trials)
    chosen = {trial.number: trial for trial in trials[-(size // 2) :]}
    share = size // 2 // len(directions)
    for objective, direction in enumerate(directions):
        values = np.array([trial.values[objective] for trial in trials])
        order = np.argsort(-values if direction is StudyDirection.MAXIMIZE else values)
        chosen.update((trials[i].number, trials[i]) for i in order[:share])
    return [chosen[number] for number in sorted(chosen)]


class FeasibleQMC(BaseSampler):
    """A scrambled Sobol sequence that a study consumes without gaps.

    Optuna's own builds a new engine and winds it forward for every single point.  The
    scrambling follows from the seed of the study, so all workers walk one sequence.
    """

    _BLOCK = 64

    def __init__(self, study_seed: int) -> None:
        self._study_seed = study_seed
        self._points: Iterator[Floats] | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Distributions
    ) -> Choices:
        """The next point of the sequence."""
        position = _advance(study)
        if self._points is None:
            self._points = self._walk(len(search_space), position)
        point = next(self._points)
        return {
            name: _at(distribution, coordinate)
            for (name, distribution), coordinate in zip(
                search_space.items(), point.tolist(), strict=True
            )
        }

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        raise RuntimeError(f"{param_name} is no parameter of the sequence")

    def _walk(self, dimension: int, start: int) -> Iterator[Floats]:
        engine = qmc.Sobol(dimension, rng=np.random.default_rng(self._study_seed))
        if start:
            engine.fast_forward(start)
        while True:
            yield from engine.random(self._BLOCK)


def _at(distribution: BaseDistribution, coordinate: float) -> Any:
    """The value at `coordinate`, in [0, 1), of a domain."""
    if not isinstance(distribution, FloatDistribution):
        return _member(distribution, int(coordinate * _size(distribution)))
    low, high = distribution.low, distribution.high
    if not distribution.log:
        return low + coordinate * (high - low)
    return min(max(low * (high / low) ** coordinate, low), high)


def _advance(study: Study) -> int:
    """The position of the study in its sequence; moves on by one."""
    attributes = study._storage.get_study_system_attrs(study._study_id)
    position = int(attributes.get(_POSITION, 0))
    study._storage.set_study_system_attr(study._study_id, _POSITION, position + 1)
    return position


class ReplayedCMAES(BaseSampler):
    """CMA-ES (Hansen, arXiv:1604.00772) whose state follows from the trials that it proposed.

    Optuna's own keeps a pickle of the state in the study, so whoever may write to the database
    would run code on every worker.  Here each trial notes its generation, a number, and the
    generations are told again in the order in which their trials ended.
    """

    GENERATION = "cma:generation"  # Optuna's name: studies that it began go on

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._optimizer: Any = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Distributions
    ) -> Choices:
        """A point of the running generation; nothing before the first trial has completed."""
        done = study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,), use_cache=True)
        if not done:
            return {}
        space = _SearchSpaceTransform(search_space, transform_step=True, transform_0_1=True)
        if self._optimizer is None:
            sign = -1 if study.direction is StudyDirection.MAXIMIZE else 1
            self._optimizer = self.replayed(space, done, sign)
        generation = self._optimizer.generation
        study._storage.set_trial_system_attr(trial._trial_id, self.GENERATION, generation)
        return space.untransform(self._optimizer.ask())

    def replayed(
        self, space: _SearchSpaceTransform, trials: Sequence[FrozenTrial], sign: int
    ) -> Any:
        """The `cmaes.CMA` that was told every full generation of the completed `trials`;
        `sign` is -1 where values are maximized."""
        from cmaes import CMA  # an optional package

        low, high = space.bounds.T
        optimizer = CMA(
            mean=(low + high) / 2,
            sigma=float(np.min(high - low)) / 6,
            bounds=space.bounds,
            seed=self._seed,
            n_max_resampling=10 * len(low),
        )
        generations: dict[Any, list[FrozenTrial]] = {}
        # By their ends: one that comes in late must not change what was told before.
        for trial in sorted(trials, key=lambda t: (t.datetime_complete, t.number)):
            generations.setdefault(trial.system_attrs.get(self.GENERATION), []).append(trial)
        size = optimizer.population_size
        while len(told := generations.get(optimizer.generation, [])[:size]) == size:
            optimizer.tell([(space.transform(t.params), sign * t.values[0]) for t in told])
        return optimizer

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        raise RuntimeError(f"{param_name} is no parameter of the generation")


class ExhaustedError(InfeasibleError):
    """Every point of the grid has been proposed."""

    def __init__(self, acceptance: Acceptance) -> None:
        super().__init__(acceptance, "the grid has no candidate left: each legal one has its trial")


class FeasibleGrid(BaseSampler):
    """Every point of the grid once, in an order that the study's seed shuffles.

    The order is an affine map of the point's number, so that a grid of any size takes no
    memory.  Optuna's own writes all points down first.
    """

    def __init__(self, study_seed: int, draws: Draws) -> None:
        self._study_seed = study_seed
        self._draws = draws

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Distributions
    ) -> Choices:
        """The next point.

        Raises:
            ExhaustedError: there is none.
        """
        sizes = [_size(distribution) for distribution in search_space.values()]
        total = math.prod(sizes)
        position = _advance(study)
        if position >= total:
            raise ExhaustedError(self._draws.tally)
        factor, shift = _shuffle(total, self._study_seed)
        number = (factor * position + shift) % total
        point: Choices = {}
        for (name, distribution), size in zip(search_space.items(), sizes, strict=True):
            number, index = divmod(number, size)
            point[name] = _member(distribution, index)
        return point

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        raise RuntimeError(f"{param_name} is no parameter of the grid")


def _shuffle(total: int, seed: int) -> tuple[int, int]:
    """A factor without common divisor with `total`, and a shift."""
    rng = random.Random(seed)
    while True:
        factor = rng.randrange(total) if total > 1 else 1
        if math.gcd(factor, total) == 1:
            return factor, rng.randrange(total)


def _size(distribution: BaseDistribution) -> int:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return (distribution.high - distribution.low) // distribution.step + 1
    raise TypeError(f"a grid needs countable domains, but got {distribution}")


def _member(distribution: BaseDistribution, index: int) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[index]
    if isinstance(distribution, IntDistribution):
        return distribution.low + index * distribution.step
    raise TypeError(f"a grid needs countable domains, but got {distribution}")
