"""What this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from search.config.sections import StudyConfig
from search.data.augmentation import require_fit
from search.data.datasets import load, load_test, without_test
from search.data.sources import source
from search.errors import ConfigError, MachineError
from search.storage.opening import existing
from search.storage.places import Place
from search.training.devices import choose_device, choose_dtype, describe_device

PACKAGES = (
    "torch",
    "torchvision",
    "albumentations",
    "optuna",
    "optuna-dashboard",
    "numpy",
    "sqlalchemy",
    "onnxruntime",
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.  `mend` is the command that helps where it is not ok."""

    name: str
    ok: bool
    detail: str
    mend: str = ""


def examine(config: StudyConfig, place: Place, device: str) -> list[Finding]:
    """Looks at device, versions, data, storage and disk for the study of `config` at `place`.

    Nothing is made, downloaded or changed.
    """
    return [
        Finding("python", True, f"{platform.python_version()} on {platform.platform()}"),
        _packages(),
        _device(device),
        _memory(),
        _data(config),
        _storage(place),
        _disk(config, place.run_directory(config.study.name)),
    ]


def _packages() -> Finding:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("packages", False, f"missing: {', '.join(missing)}", "pip install -e .")
    return Finding("packages", True, ", ".join(found))


def _device(name: str) -> Finding:
    try:
        device = choose_device(name)
    except MachineError as error:
        return Finding("device", False, str(error), "--device auto")
    number = str(choose_dtype(device, "auto")).removeprefix("torch.")
    detail = f"{describe_device(device)}, trains in {number}"
    if device.type != "cuda" and torch.version.cuda:
        detail += "; torch has CUDA, but no NVIDIA GPU answers"
    return Finding("device", True, detail)


def _memory() -> Finding:
    free = psutil.virtual_memory().available / 1e9
    return Finding("memory", free > 2, f"{free:.1f} GB free, {psutil.cpu_count()} processors")


def _data(config: StudyConfig) -> Finding:
    section = config.data
    mend = "--set data.root=DIR, or --set data.kind=imagefolder --set data.root=DIR"
    try:
        data = source(section, keep=False)
        if data.absent():
            return Finding("data", False, data.absent(), mend)
        shape, classes = data.describe()
        require_fit(config.augmentation, shape)
        if data.is_unpacked:
            load(section, keep=False)  # looks at each image, as launch does
        if without_test(section):
            return Finding("data", False, without_test(section), "--set data.test=0.1")
        if data.is_unpacked:
            load_test(section, keep=False)  # whether they can be read, as export does
    except ConfigError as error:  # another place of the data would not help
        return Finding("data", False, str(error))
    except MachineError as error:
        place = "FILE.npz" if section.kind == "npz" else "DIR"
        return Finding("data", False, str(error), f"--set data.root={place}")
    where = f"{data.called} in {section.root}" if section.kind != "digits" else "digits"
    held = " and validation images of their own" if data.has_validation() else ""
    return Finding("data", True, f"{where}: {classes} classes of {shape} images{held}")


def _storage(place: Place) -> Finding:
    try:
        with existing(place) as storage:
            told = "answers" if storage else "launch will make it"
    except (ConfigError, MachineError) as error:
        return Finding("storage", False, str(error), "--storage sqlite:///studies/NAME.db")
    return Finding("storage", True, f"{place}: {told}")


def _disk(config: StudyConfig, runs: Path) -> Finding:
    there = next(folder for folder in runs.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(there).free
    # CIFAR-10's size: 50,000 images of 32 x 32 x 3 bytes.
    needed = config.augmentation.epochs * 50_000 * 3_072
    detail = f"{free / 1e9:.1f} GB free; augmented epochs of CIFAR-10 take {needed / 1e9:.1f} GB"
    return Finding("disk", free > 2 * needed, detail, "--set augmentation.epochs=N")
