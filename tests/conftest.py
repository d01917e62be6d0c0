"""What several test files need: small real data, candidates, and a quiet environment."""

from __future__ import annotations

import os

# Before torch is imported: runners share two cores, and threads below them only compete.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Readline, which pytest imports, tells the workers of xdist a width that no terminal has.
os.environ.pop("COLUMNS", None)

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search.config.candidate import Recipe
from search.config.files import load
from search.config.sections import DataSection, StudyConfig
from search.data.datasets import Dataset
from search.data.datasets import load as load_data
from search.networks.architecture import Architecture
from space import SearchSpace

# A shell that starts the tests behind & leaves this ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # likewise behind nohup

pytest_plugins = ["tests.servers"]

STUDIES = Path(__file__).parent.parent / "studies"


def own(name: str = "quickstart") -> Path:
    """A copy of a study file in studies/ of the working directory, where its database belongs."""
    folder = Path("studies")
    folder.mkdir(exist_ok=True)
    return Path(shutil.copy(STUDIES / f"{name}.toml", folder))


# Three epochs on few images.
RECIPE = Recipe(
    epochs=3,
    batch_size=32,
    optimizer="muon",
    learning_rate=0.2,
    matrix_learning_rate=0.1,
    momentum=0.9,
    matrix_momentum=0.6,
    weight_decay=5e-4,
    label_smoothing=0.1,
    schedule="linear",
    warmup=0.0,
    average=0.0,
)

# Every kind of choice that a study file can offer.
WIDE_SPACE: dict[str, Any] = {
    "head": [0, 24, 40],
    "activation": ["relu", "gelu", "silu", "hardswish"],
    "classifier": ["linear", "conv"],
    "block": {
        "depth": {"low": 0, "high": 3},
        "width": {"low": 4, "high": 32, "step": 4},
        "operator": ["dense", "separable", "inverted"],
        "kernel": [3, 5],
        "dilation": [1, 2, 3],
        "residual": [False, True],
        "expansion": [2, 3],
        "squeeze_excite": [0, 4],
        "transition": {
            "operator": ["dense", "separable"],
            "dilation": [1, 2],
            "bottleneck": [False, True],
        },
    },
    "C4": {"depth": {"low": 1, "high": 3}},
}


# Likewise, with transitions that halve once, twice or not at all.
VARIED_SPACE: dict[str, Any] = {
    **WIDE_SPACE,
    "C1": {"transition": {"halvings": [0, 1, 2]}},
    "C2": {"transition": {"halvings": [0, 1]}},
    "C3": {"transition": {"halvings": [0, 1]}},
}


def candidates(
    number: int, seed: int = 0, choices: dict[str, Any] = WIDE_SPACE
) -> Iterator[Architecture]:
    """Random architectures out of a space with every kind of choice, legal or not."""
    space = SearchSpace.model_validate(choices)
    rng = random.Random(seed)
    for _ in range(number):
        yield space.architecture(space.sample(rng))


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_data(DataSection(kind="digits", validation=0.2))


@pytest.fixture
def quickstart() -> StudyConfig:
    return load(STUDIES / "quickstart.toml")


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Every file and directory gets the mode that was asked for."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(place: Path) -> list[Path]:
    """What lies below `place` and others than its owner may use."""
    return [path for path in place.rglob("*") if path.lstat().st_mode & 0o077]
