"""A real bundle, made once: a network trained for an epoch on digits; and one that is committed,
for what needs no images."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from search.analysis.tracing.loading import read_source
from search.bundles.export import export
from search.config.candidate import Candidate
from search.config.files import load
from search.config.sections import StudyConfig
from search.data import datasets
from search.proposals.asked import recipe_choices
from search.proposals.sampler import make_sampler
from search.storage.given import give
from search.storage.studies import create_or_resume, study_storage
from search.storage.summary import summarize
from search.training.modules import Modules, read
from search.training.trainer import Trainer
from search.workers.objective import Objective
from tests.conftest import STUDIES
from tests.modules import written
from tests.synthetic_study import build, config, train_finalists

CPU = torch.device("cpu")
SMALL = (
    "study.target=0.999",
    "training.epochs=1",
    "augmentation.epochs=1",
    "data.image_size=16",
    "space.block.squeeze_excite=4",
    "study.pruner=none",
)
RULES = ("limits.downsampling=1", "limits.receptive_field=16", "augmentation.hole=4")
COMMITTED = STUDIES.parent / "docs" / "results" / "cifar10"


@dataclass(frozen=True)
class Exported:
    """A study of one trial, and the bundle of it."""

    study: optuna.Study
    config: StudyConfig
    folder: Path
    bundle: Path

    def export(self, out: Path, **options: Any) -> Path:
        places = {"runs": self.folder / "runs", "cache": augmented(self.folder)}
        config = options.pop("config", self.config)
        return export(self.study, config, out=out, device=CPU, **places, **options)


def require_confined(missing: object) -> None:
    """Skips the test where the system cannot keep a process from something."""
    if missing:
        pytest.skip(f"this system cannot keep a process from: {missing}")


def augmented(folder: Path) -> Path:
    """Beside the `folder` of a test: the augmented epochs of all."""
    return folder.parent / "augmented"


def trained(folder: Path, *changes: str) -> Exported:
    """A study of one trial, which was trained; its bundle is not made yet."""
    config = load(STUDIES / "quickstart.toml", [*SMALL, *changes])
    study = create_or_resume(config, f"sqlite:///{folder}/small.db")
    dataset = datasets.load(config.data)
    study.sampler = make_sampler(config, dataset.input, len(dataset.classes))
    trainer = Trainer(config, dataset, CPU, cache=augmented(folder))
    study.optimize(Objective(config, trainer, runs=folder / "runs"), n_trials=1)
    return Exported(study, config, folder, folder / "bundle")


def trained_module(folder: Path) -> tuple[Exported, Modules]:
    """A study of one given module, which was trained; its bundle is not made yet."""
    config = load(STUDIES / "quickstart.toml", (*SMALL, *RULES))
    modules = Modules([f"{written(folder)}:colored"])
    dataset = datasets.load(config.data)
    recipe = config.recipe(recipe_choices(config, None))
    network = read(read_source(f"{folder}/mine.py:colored"), dataset.input, 10, recipe)
    study = create_or_resume(config, f"sqlite:///{folder}/s.db", data=dataset.identity)
    give(study, Candidate(network, recipe), "mine.py:colored", {}, {})
    study_storage(study).modules = modules.keys
    trainer = Trainer(config, dataset, CPU, cache=augmented(folder), modules=modules)
    study.optimize(Objective(config, trainer, runs=folder / "runs"), n_trials=1)
    return Exported(study, config, folder, folder / "bundle"), modules


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    result = trained(tmp_path_factory.mktemp("study"))
    result.export(result.bundle)
    return result


@pytest.fixture(scope="session")
def finals(tmp_path_factory: pytest.TempPathFactory) -> optuna.Study:
    """20 trials, the three best of which were trained again; the third best diverged."""
    study = build(config(), f"sqlite:///{tmp_path_factory.mktemp('finals')}/demo.db", trials=20)
    third = summarize(study, config()).best[2]
    train_finalists(study, config(), lost=third.number)
    return study


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.bundle, tmp_path / "bundle"))


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    """A copy of the committed winner's bundle, whose images need not be here."""
    return Path(shutil.copytree(COMMITTED, tmp_path / "bundle"))


def metrics_of(bundle: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "metrics.json").read_text())
    return content


def seal(bundle: Path) -> None:
    """Makes the digests right again, as a forger would."""
    metrics = metrics_of(bundle)
    for name in metrics["files"]:
        metrics["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    (bundle / "metrics.json").write_text(json.dumps(metrics))
