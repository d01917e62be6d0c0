"""A simulated world: what each network truly reaches, and what one training of it shows."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from benchmarks.landscape.recipes import drawn, network, study
from benchmarks.landscape.statistics import deviation
from benchmarks.landscape.table import CHANCE, Row, Table
from benchmarks.search.features import Floats, features
from benchmarks.search.surrogate import Family, Surrogate, Truth
from search.analysis.facts import count_macs
from search.config.candidate import Candidate
from search.domains import Scalar
from search.errors import ConfigError

IMAGES = 6_000  # that the short recipe trains on in an epoch
NETWORKS = 20  # that a table must have
_POOL = 3_000  # uniform legal networks, whose best hundredth is looked for
_NEAR = 5  # trainings like one, of which its curve and its noise are taken


class Landscape:
    """All that the table says, made ready for drawing worlds.

    Raises:
        ConfigError: its trainings are too few, or none has a second seed.
    """

    def __init__(self, table: Table, family: Family) -> None:
        self.family = family
        self.rows = tuple(row for row in table.first() if not row.collapsed)
        if len(self.rows) < NETWORKS:
            raise ConfigError(f"has {len(self.rows)} networks that learned, of {NETWORKS} needed")
        self.collapse = 1 - len(self.rows) / len(table.first())
        groups = [
            [row.accuracy for row in rows if not row.collapsed]
            for rows in table.repeated().values()
        ]
        self.repeated = [group for group in groups if len(group) > 1]
        if not self.repeated:
            raise ConfigError("has no network with a second seed, so no noise is known")
        self.noise = deviation(self.repeated).value
        self.accuracies = np.array([row.accuracy for row in self.rows])
        known = np.array([self.features(row.choices) for row in self.rows])
        self.surrogate = Surrogate(family, known, self.accuracies, self.noise)

    def features(self, choices: Mapping[str, Scalar]) -> Floats:
        return features(study("short"), choices, network(dict(choices)))

    @cached_property
    def pool(self) -> tuple[Floats, list[str], float]:
        """Features and names of uniform legal networks, and the PFLOP of a mean training."""
        all_choices = [drawn(index) for index in range(_POOL)]
        networks = [network(choices) for choices in all_choices]
        config = study("short")
        rows = [features(config, c, n) for c, n in zip(all_choices, networks, strict=True)]
        macs = float(np.mean([count_macs(each) for each in networks]))
        return np.array(rows), [each.hash for each in networks], 6 * macs * self.images / 1e15

    @property
    def images(self) -> int:
        """Images that a whole training sees."""
        return IMAGES * len(self.rows[0].accuracies)


class World:
    """One truth that agrees with the table.  The same seed is the same world, and a network
    trained in it twice with the same seed shows the same."""

    def __init__(self, landscape: Landscape, seed: int) -> None:
        self._landscape = landscape
        self._seed = seed
        self._truth: Truth = landscape.surrogate.truth(seed)
        rows, names, self.training = landscape.pool
        reached = self._truth(rows) + [self._own(name) for name in names]
        self.middle = float(np.mean(reached))
        self.best_hundredth = float(np.quantile(reached, 0.99))

    def accuracy(self, choices: Mapping[str, Scalar], candidate: Candidate) -> float:
        """What the network truly reaches: the mean over all seeds, in [0, 1]."""
        row = self._landscape.features(choices)
        return float(self._truth(row[None])[0]) + self._own(candidate.architecture.hash)

    def curve(self, true: float, candidate: Candidate) -> tuple[float, ...]:
        """Accuracies after each epoch of one training: the noise is that of repeated networks
        about as good, the course to the end that of a training that ended about there."""
        rng = random.Random(f"{self._seed} {candidate.hash}")
        landscape = self._landscape
        if rng.random() < landscape.collapse:
            return (CHANCE,) * len(landscape.rows[0].accuracies)
        near = sorted(landscape.repeated, key=lambda group: abs(np.mean(group) - true))[:_NEAR]
        group = rng.choice(near)
        spread = (len(group) / (len(group) - 1)) ** 0.5
        end = true + spread * (rng.choice(group) - float(np.mean(group)))
        like = np.argsort(np.abs(landscape.accuracies - end))[:_NEAR]
        row: Row = landscape.rows[rng.choice(list(like))]
        return tuple(max(0.0, end + early - row.accuracy) for early in row.accuracies)

    @cached_property
    def opposite(self) -> World:
        """The world in which each network is as far below the middle as it is above here."""
        return _Opposite(self._landscape, self._seed)

    def _own(self, name: str) -> float:
        """What is this network's own and follows from nothing about it."""
        rng = np.random.default_rng([self._seed, int(name, 16)])
        return self._landscape.surrogate.rough * float(rng.standard_normal())


class _Opposite(World):
    def accuracy(self, choices: Mapping[str, Scalar], candidate: Candidate) -> float:
        return 2 * self.middle - super().accuracy(choices, candidate)
