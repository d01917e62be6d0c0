"""Trainings of candidates on one data set: for the trials of a study, and for export."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from search.config.candidate import Candidate
from search.config.sections import StudyConfig
from search.data.augmentation import AugmentedEpochs
from search.data.datasets import Dataset
from search.data.epochs import DeviceEpochs
from search.data.normalization import Normalization
from search.networks.module import build
from search.training.devices import choose_dtype, keep_memory
from search.training.initialization import pass_on, whiten
from search.training.training import Training


class Trainer:
    """Makes the training of any candidate by the study `config`, on `dataset` and `device`.

    The augmented epochs lie in `cache`, and are shared by all its trainings; `processes`
    augment images beside the first of them.
    """

    def __init__(
        self,
        config: StudyConfig,
        dataset: Dataset,
        device: torch.device,
        *,
        cache: Path,
        processes: int = 1,
    ) -> None:
        keep_memory()
        self.dataset = dataset
        self.device = device
        self.normalization = Normalization(dataset.mean, dataset.std)
        self._config = config
        self._cache = cache
        self._processes = processes
        self._epochs: dict[float, DeviceEpochs] = {}  # by the strength of their augmentation

    def training(self, candidate: Candidate, network: nn.Module | None = None) -> Training:
        """A training of `candidate`, not begun; of `network`, whose weights are there already,
        in float32."""
        seed = self._config.study.seed + candidate.recipe.repeat
        torch.manual_seed(seed)
        dtype = choose_dtype(self.device, self._config.training.precision)
        return Training(
            self._fresh(candidate) if network is None else network,
            candidate.recipe,
            self._augmented(candidate.recipe.augmentation_strength),
            self.dataset.train.labels,
            self.normalization,
            validation=self.dataset.validation if len(self.dataset.validation) else None,
            device=self.device,
            dtype=dtype if network is None else torch.float32,
            seed=seed,
        )

    def _fresh(self, candidate: Candidate) -> nn.Module:
        network = build(candidate.architecture)
        if candidate.recipe.identity:
            pass_on(network)
        if candidate.recipe.whitening:
            whiten(network, self.dataset.train.pixels, self.normalization)
        return network

    def _augmented(self, strength: float) -> DeviceEpochs:
        if strength not in self._epochs:
            dataset = self.dataset
            epochs = AugmentedEpochs(
                self._config.augmentation,
                dataset.train.pixels,
                dataset.fingerprint,
                dataset.mean,
                self._cache,
                strength,
            )
            epochs.start(self._processes)
            self._epochs[strength] = DeviceEpochs(epochs, self.device)
        return self._epochs[strength]
