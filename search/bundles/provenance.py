"""By what a bundle was made: seeds, versions, hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import psutil
import torch

from search.config.candidate import Candidate
from search.config.sections import StudyConfig
from search.training.devices import describe_device
from search.version import NAME, version

PACKAGES = (
    "torch", "torchvision", "albumentations", "optuna", "numpy", "onnx", "onnxscript",
    "safetensors", "scikit-learn",
)  # fmt: skip


def seeds(config: StudyConfig, candidate: Candidate) -> dict[str, int]:
    """All that a candidate's training draws from."""
    return {
        "study": config.study.seed,
        "data": config.data.seed,
        "augmentation": config.augmentation.seed,
        "repeat": candidate.recipe.repeat,
    }


def versions() -> dict[str, str]:
    """Those of this program and of what its results depend on."""
    return {
        NAME: version(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """The machine, and the `device` of it that trained."""
    return {
        "device": describe_device(device),
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
