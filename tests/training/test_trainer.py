from __future__ import annotations

from pathlib import Path

import pytest
import torch

from search.config.candidate import Candidate
from search.config.sections import StudyConfig
from search.data.augmentation import AugmentedEpochs
from search.data.datasets import Dataset
from search.training.trainer import Trainer
from tests.conftest import RECIPE, candidates


def test_processes_augment_many_images_and_none_augment_few(
    quickstart: StudyConfig, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[int, int]] = []
    monkeypatch.setattr(
        AugmentedEpochs,
        "start",
        lambda epochs, processes: started.append((epochs.section.epochs, processes)),
    )
    for epochs in (quickstart.augmentation.epochs, 200):
        section = quickstart.augmentation.model_copy(update={"epochs": epochs})
        config = quickstart.model_copy(update={"augmentation": section})
        trainer = Trainer(config, digits, torch.device("cpu"), cache=tmp_path, processes=3)
        trainer.training(Candidate(next(candidates(1)), RECIPE))
    assert started == [(200, 3)]
