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
from search.networks.network import Network
from search.training.devices import choose_dtype, keep_memory
from search.training.foreign import Foreign
from search.training.initialization import pass_on, whiten
from search.training.modules import NONE, Modules
from search.training.training import Training


class Trainer:
    """Makes the training of any candidate by the study `config`, on `dataset` and `device`.

    The augmented epochs lie in `cache`, and are shared by all its trainings; `processes`
    augment many images beside the first of them; `modules` are what may be run of others' code.
    """

    def __init__(
        self,
        config: StudyConfig,
        dataset: Dataset,
        device: torch.device,
        *,
        cache: Path,
        processes: int = 1,
        modules: Modules = NONE,
    ) -> None:
        keep_memory()
        self.dataset = dataset
        self.device = device
        self.normalization = Normalization(dataset.mean, dataset.std)
        self._config = config
        self._cache = cache
        self._processes = processes
        self._modules = modules
        self._epochs: dict[float, DeviceEpochs] = {}  # by the strength of their augmentation

    def training(self, candidate: Candidate, network: nn.Module | None = None) -> Training:
        """A training of `candidate`, not begun; of `network`, whose weights are there already,
        in float32."""
        seed = self._config.study.seed + candidate.recipe.repeat
        torch.manual_seed(seed)
        dtype = choose_dtype(self.device, self._config.training.precision)
        tuned, network = network is not None, network or self._fresh(candidate)
        # On a CPU, torch's gradients of some convolutions are wrong in bfloat16 (`QuickGroups`).
        exact = tuned or (isinstance(network, Foreign) and self.device.type == "cpu")
        return Training(
            network,
            candidate.recipe,
            self._augmented(candidate.recipe.augmentation_strength),
            self.dataset.train.labels,
            self.normalization,
            validation=self.dataset.validation if len(self.dataset.validation) else None,
            device=self.device,
            dtype=torch.float32 if exact else dtype,
            seed=seed,
        )

    def build(self, network: Network) -> nn.Module:
        """`network` with fresh weights.

        Raises:
            MachineError: it is a module, and its code is not to be run here.
        """
        return self._modules.build(network)

    def _fresh(self, candidate: Candidate) -> nn.Module:
        network = self.build(candidate.architecture)
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
            if not epochs.few:
                epochs.start(self._processes)
            self._epochs[strength] = DeviceEpochs(epochs, self.device)
        return self._epochs[strength]
