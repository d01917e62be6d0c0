"""The files of a bundle: how each is written, and all of them at once or not at all."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import math
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from filelock import FileLock, Timeout
from safetensors.torch import save
from torch import nn

from search.config.sections import StudyConfig
from search.data.images import Images
from search.errors import ConfigError, MachineError
from search.networks.architecture import Architecture
from search.networks.source import generate, state_key

ONNX_OPSET = 20
REQUIRED = (
    "model.py", "model.safetensors", "model.onnx", "architecture.json", "study.toml",
    "training_log.csv", "README.md", "report.html",
)  # fmt: skip

SCRATCH = "unfinished-"
"""Begins the name, behind that of the bundle, of a directory that is being filled."""


@contextmanager
def made_at_once(out: Path) -> Iterator[Path]:
    """A directory beside `out` that becomes `out` at the end, or vanishes.

    One process at a time: what a killed one has left is cleared by the next.

    Raises:
        ConfigError: `out` cannot be made, or another process is making it.
        MachineError: the disk does not take it all.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists already; name a new directory with --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out.parent / f".{out.name}.lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise ConfigError(f"{out}: another export is making it; name another with --out") from None
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}; name another with --out") from None
    try:
        for left in out.parent.glob(f"{glob.escape(f'.{out.name}.')}{SCRATCH}*"):
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.{SCRATCH}", dir=out.parent))
        try:
            yield scratch
            scratch.chmod(0o755)  # mkdtemp lets nobody else in
            scratch.replace(out)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise MachineError(f"{error.filename or out}: {error.strerror}") from error
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def write_network(
    bundle: Path,
    architecture: Architecture,
    network: nn.Module,
    metrics: Mapping[str, Any],
) -> None:
    """Writes code, weights and ONNX of `network`, which `architecture` describes."""
    source = generate(
        architecture,
        title=f"The network that trial {metrics['trial']} of study {metrics['study']} found.",
        facts=_facts(metrics),
        classes=metrics["data"]["classes"],
        mean=metrics["data"]["mean"],
        std=metrics["data"]["std"],
    )
    (bundle / "model.py").write_text(source, encoding="utf-8")
    weights = {
        state_key(architecture, key): tensor.detach().contiguous()
        for key, tensor in network.state_dict().items()
    }
    (bundle / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    (bundle / "model.onnx").write_bytes(onnx_graph(network, architecture.input))


def _facts(metrics: Mapping[str, Any]) -> list[str]:
    accuracy = metrics["accuracy"]
    return [
        f"{metrics['parameters']:,} parameters; {metrics['macs']:,} multiply-adds for one image; "
        f"receptive field {metrics['receptive_field']} pixels.",
        f"{accuracy['test']:.2%} of {metrics['data']['test']:,} test images classified correctly.",
        "",
        'Weights: network.load_state_dict(safetensors.torch.load_file("model.safetensors")).',
    ]


def onnx_graph(network: nn.Module, shape: tuple[int, int, int]) -> bytes:
    """`network` as ONNX: `images` (N, *shape) to `logits` (N, classes)."""
    with warnings.catch_warnings():  # torch 2.11 copies what it has deprecated itself
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *shape),),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=ONNX_OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    # torch writes the source lines, with their paths on this machine, into every node.
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, model.graph):
        item.ClearField("metadata_props")
    for value in (*model.graph.value_info, *model.graph.initializer):
        value.ClearField("metadata_props")
    onnx.checker.check_model(model)
    graph: bytes = model.SerializeToString()
    return graph


def study_file(config: StudyConfig) -> str:
    """The study file that launches `config` again, and tells nothing about this machine.

    An absolute `data.root` is written relative to the working directory, or, where it lies
    elsewhere, as its last name with a comment that says so.
    """
    root = config.data.root
    if not root.is_absolute():
        return config.to_toml()
    below = root.is_relative_to(Path.cwd())
    shown = root.relative_to(Path.cwd()) if below else Path(root.name)
    data = config.data.model_copy(update={"root": shown})
    text = config.model_copy(update={"data": data}).to_toml()
    return text if below else text.replace("[data]\n", f"[data]\n{_ELSEWHERE}", 1)


_ELSEWHERE = """\
# The images lay elsewhere: `launch study.toml --set data.root=DIR` names where they lie now,
# `verify BUNDLE --data DIR` too.
"""


def write_log(path: Path, runs: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """One line per epoch of each run; what was not measured is left blank."""
    fields = (
        "run", "epoch", "train_loss", "validation_loss", "accuracy", "balanced_accuracy",
        "learning_rate", "images", "seconds",
    )  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, restval="", extrasaction="ignore")
        writer.writeheader()
        for run, records in runs.items():
            for record in records:
                measured = {k: v for k, v in record.items() if v is not None and math.isfinite(v)}
                writer.writerow({"run": run, **measured})


def write_files(bundle: Path, files: Mapping[str, bytes]) -> None:
    """Writes `files`, by name, into the directory `bundle`."""
    for name, content in files.items():
        (bundle / name).write_bytes(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` for people and programs."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def fingerprint(images: Images) -> str:
    """Sixteen hexadecimal digits that name images, labels and their order."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(images.pixels.tobytes())
    digest.update(images.labels.tobytes())
    return digest.hexdigest()
