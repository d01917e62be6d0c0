"""A study that took its winner over from another one, beside a network that was given."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file

from search.bundles.verify import verify
from search.config.files import overridden
from search.data import datasets
from search.proposals.asked import given
from search.proposals.inheritance import inherit
from search.proposals.parameters import distributions
from search.storage.checkpoints import latest_checkpoint, load_checkpoint
from search.storage.given import give
from search.storage.studies import create_or_resume, study_storage
from search.storage.trials import candidate_of
from search.training.trainer import Trainer
from search.workers.objective import Objective
from tests.bundles.conftest import CPU, Exported, augmented, metrics_of


def test_both_are_exported_and_the_given_one_is_proved(exported: Exported, tmp_path: Path) -> None:
    config = overridden(exported.config, ["study.name=heir", "limits.parameters=90_000"])
    study = create_or_resume(config, f"sqlite:///{tmp_path}/heir.db")
    dataset = datasets.load(config.data)
    classes, source = len(dataset.classes), exported.study.trials[0]
    (taken,) = inherit(exported.study, config, dataset.input, classes, identity={}).taken
    study.add_trial(taken)
    # No choice of the space has classes without a bias.
    network = candidate_of(source).architecture
    output = dataclasses.replace(network.output, bias=False)
    candidate, choices = given(dataclasses.replace(network, output=output), config, None)
    assert choices == {}
    study_storage(study).only = give(study, candidate, "x.json", {}, distributions(config))
    trainer = Trainer(config, dataset, CPU, cache=augmented(tmp_path))
    study.optimize(Objective(config, trainer, runs=tmp_path / "runs"), n_trials=1)
    heir = Exported(study, config, tmp_path, tmp_path / "taken")
    for number, out in ((0, heir.bundle), (1, tmp_path / "given")):
        heir.export(out, trial=number, retrain=False)
        search = metrics_of(out)["search"]
        assert (search["trials"], search["given"], search["taken"]) == (0, 1, 1)
    assert [str(found) for found in verify(tmp_path / "given") if found.ok is not True] == []
    # Its checkpoint is the other study's: the same training makes the same weights again.
    kept = load_checkpoint(latest_checkpoint(exported.folder / "runs", source))
    assert kept is not None
    again = load_file(heir.bundle / "model.safetensors").values()
    for tensor in kept["network"].values():
        assert any(tensor.shape == other.shape and torch.equal(tensor, other) for other in again)
    assert metrics_of(heir.bundle)["cost"]["study_pflop"] < sum(
        trial.user_attrs["pflop"] for trial in study.trials
    )
