"""How a network of the landscape is trained and judged: `short` on a CPU, `whole` on a GPU.

Both hold out the same 10,000 of CIFAR-10's 50,000 training images, stratified and seeded,
which judge and are read by nothing else.  The test images are not read.  A training is what
a trial of the study would run: same sampler, data, augmentation and training.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
import tomllib
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from benchmarks.landscape.table import VERSION, Header, Kind, RecipeName, Row
from search.analysis.table import analyze
from search.config.candidate import Candidate
from search.config.files import load
from search.config.sections import StudyConfig
from search.data.datasets import Dataset
from search.data.datasets import load as load_data
from search.errors import ConfigError
from search.networks.architecture import Architecture
from search.proposals.filling import Choices
from search.proposals.proposer import Proposer
from search.storage.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from search.training import trainer
from search.training.devices import choose_device, describe_device
from search.training.training import DivergedError, Training

ROOT = Path(__file__).parent.parent.parent
STUDY = ROOT / "studies" / "wide.toml"
INPUT = (3, 32, 32)  # the images that the limits are about, whatever size trains
CLASSES = 10
JUDGED = 0.2  # of the training images
CHECKPOINT_INTERVAL = 60.0  # seconds of training that a dying process takes with it


@dataclass(frozen=True)
class TrainingRecipe:
    """`share` of the images that do not judge train, under `changes` to the study file."""

    share: float
    changes: tuple[str, ...] = ()


RECIPES: dict[RecipeName, TrainingRecipe] = {
    "short": TrainingRecipe(
        0.15,
        (
            "data.image_size=16",
            "training.epochs=5",
            "training.batch_size=150",
            "training.small_epochs=0.0",
            "augmentation.hole_probability=0.0",
            "augmentation.epochs=5",
        ),
    ),
    "whole": TrainingRecipe(1.0),
}


@dataclass(frozen=True)
class Job:
    """A training to run; `choices` are those of a legal network, widths filled."""

    kind: Kind
    index: int | None
    recipe: RecipeName
    seed: int
    choices: Choices

    @classmethod
    def of(cls, row: Row) -> Job:
        """The training that `row` is of."""
        return cls(row.kind, row.index, row.recipe, row.seed, row.choices)

    @cached_property
    def candidate(self) -> Candidate:
        """Network and recipe; the seed is among the latter."""
        found = study(self.recipe).candidate(self.choices, input=INPUT, classes=CLASSES)
        return replace(found, recipe=replace(found.recipe, repeat=self.seed))


@lru_cache
def study(recipe: RecipeName) -> StudyConfig:
    """The study file under that recipe, its images an imagefolder not yet named."""
    return load(
        STUDY, ["data.kind=imagefolder", f"data.validation={JUDGED}", *RECIPES[recipe].changes]
    )


@cache
def drawn(index: int) -> Choices:
    """The uniform legal network of that number: the first that its own generator draws."""
    rng = random.Random(f"landscape {index}")
    proposer = Proposer(study("short"), INPUT, CLASSES)
    while True:
        proposal = proposer.judge(proposer.complete({}, rng))
        if proposal.accepted:
            return proposal.choices


def named(choices: Choices) -> Choices:
    """`choices`, if they are those of a legal network.

    Raises:
        ConfigError: they are not one value of each parameter, or the network breaks a rule.
    """
    proposer = Proposer(study("short"), INPUT, CLASSES)
    wrong = proposer.domains.keys() ^ choices.keys() or {
        name for name, domain in proposer.domains.items() if choices[name] not in domain
    }
    if wrong:
        raise ConfigError(f"choices must be one value of each parameter, but see {sorted(wrong)}")
    broken = proposer.judge(choices, fill=False).violations
    if broken:
        raise ConfigError(f"choices of an illegal network: {broken[0].message}")
    return choices


def network(choices: Choices) -> Architecture:
    """The network that `choices` mean."""
    return study("short").space.architecture(choices, input=INPUT, classes=CLASSES)


def settings() -> str:
    """A hash of what all rows have in common, as the files say it: what a later version of
    this program adds, with a default, changes no table."""
    file = tomllib.loads(STUDY.read_text())
    told = [file[section] for section in ("limits", "space", "augmentation", "training")]
    recipes = {name: asdict(recipe) for name, recipe in RECIPES.items()}
    content = json.dumps([told, recipes, JUDGED], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class Trainer:
    """Trains jobs on one device, with the images of one imagefolder; `cache` keeps the
    augmented ones.

    Raises:
        ConfigError, MachineError: as `search.data.load` does.
    """

    def __init__(self, images: Path, device: str, cache: Path) -> None:
        self._images = images
        self._cache = cache
        self._device = choose_device(device)
        self._made: dict[RecipeName, trainer.Trainer] = {}
        self.header = Header(
            landscape=VERSION, images=self._dataset("whole").fingerprint, settings=settings()
        )

    def train(self, job: Job, checkpoint: Path) -> Row:
        """The row of `job`; what `checkpoint` holds of it is not trained again."""
        training = self._trainer(job.recipe).training(job.candidate)
        processor, diverged = self._run(training, checkpoint)
        facts = analyze(job.candidate.architecture)
        return Row(
            kind=job.kind,
            index=job.index,
            recipe=job.recipe,
            seed=job.seed,
            choices=job.choices,
            architecture=job.candidate.architecture.hash,
            candidate=job.candidate.hash,
            receptive_field=facts.smaller_field,
            parameters=facts.parameters,
            macs=facts.macs,
            accuracies=tuple(record.accuracy for record in training.history),
            losses=tuple(round(record.validation_loss, 5) for record in training.history),
            diverged=diverged,
            seconds=round(sum(record.seconds for record in training.history), 2),
            processor_seconds=round(processor, 2),
            device=describe_device(self._device),
            versions={name: version(name) for name in ("torch", "numpy", "albumentations")},
        )

    def _run(self, training: Training, checkpoint: Path) -> tuple[float, bool]:
        """Seconds of this processor, and whether the training diverged."""
        try:
            state = load_checkpoint(checkpoint)
        except CheckpointError:
            state = None  # the training begins again
        before = time.process_time()
        if state is not None:
            before -= state["processor_seconds"]
            training.restore(state)
        saved = time.monotonic()
        while training.epoch < training.recipe.epochs:
            try:
                training.run_epoch()
            except DivergedError:
                return time.process_time() - before, True
            if time.monotonic() - saved > CHECKPOINT_INTERVAL:
                spent = time.process_time() - before
                save_checkpoint(checkpoint, {**training.state(), "processor_seconds": spent})
                saved = time.monotonic()
        return time.process_time() - before, False

    def dataset(self, recipe: RecipeName) -> Dataset:
        """The images that judge, and those that train by that recipe."""
        return _part(self._dataset(recipe), RECIPES[recipe].share)

    def _trainer(self, recipe: RecipeName) -> trainer.Trainer:
        if recipe not in self._made:
            self._made[recipe] = trainer.Trainer(
                study(recipe), self.dataset(recipe), self._device, cache=self._cache
            )
        return self._made[recipe]

    def _dataset(self, recipe: RecipeName) -> Dataset:
        section = study(recipe).data.model_copy(update={"root": self._images})
        dataset = load_data(section)
        if len(dataset.classes) != CLASSES or (not section.image_size and dataset.input != INPUT):
            found = f"images of {dataset.input} in {len(dataset.classes)} classes"
            raise ConfigError(f"{self._images}: has {found}, but {INPUT} in {CLASSES} are needed")
        return dataset


def _part(dataset: Dataset, share: float) -> Dataset:
    """`dataset` with a stratified, seeded share of its training images."""
    if share == 1:
        return dataset
    chosen, _ = train_test_split(
        np.arange(len(dataset.train)),
        train_size=share,
        random_state=0,
        stratify=dataset.train.labels,
    )
    return replace(dataset, train=dataset.train.take(np.sort(chosen)))
