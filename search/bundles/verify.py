"""Proves a bundle again: its rules, code = weights = ONNX, and its accuracy.

A bundle is untrusted.  Its files are read once, compared with their SHA-256, and used from
memory from then on; its code is not run in this process (see `search.bundles.isolated`).
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from constraints import Verdict, check
from search.bundles import isolated
from search.bundles.files import METRICS_VERSION, REQUIRED, fingerprint
from search.config.files import parse
from search.config.sections import DataSection, StudyConfig
from search.data.datasets import Images, load_test
from search.data.normalization import Normalization
from search.display import wording
from search.errors import ConfigError, MachineError
from search.networks.architecture import Architecture, ArchitectureError
from search.networks.module import build
from search.networks.source import state_key
from search.training.evaluation import EVALUATION_BATCH

LARGEST = 2**28  # bytes of one file: far beyond any network of this kind
TOLERANCE = 1e-4  # of logits
PROBES = 8  # random images on which logits are compared
SEED = 2_026

Files = Mapping[str, bytes]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.  `ok` is None where it could not be."""

    name: str
    ok: bool | None
    detail: str


class _Failure(Exception):  # noqa: N818 - the outcome of a check
    """Why a check fails, in one line."""


class _Unknown(Exception):  # noqa: N818 - the outcome of a check
    """Why a check cannot be made, in one line."""


def verify(bundle: Path, data_root: Path | None = None) -> list[Check]:
    """The checks of the bundle in directory `bundle`.

    Where the files are not what `metrics.json` says, nothing else is looked at.
    `data_root` overrules where the bundle's data lies; nothing is downloaded.

    Raises:
        ConfigError: there is no bundle.
    """
    if not (bundle / "metrics.json").is_file():
        raise ConfigError(f"{bundle}: no bundle (it holds no metrics.json)")
    try:
        files = _read(bundle)
        parts = _Parts.of(files)
    except _Failure as failure:
        return [Check("files", False, str(failure))]
    looks: dict[str, Callable[[], str]] = {
        "rules": lambda: _rules(parts),
        "weights": lambda: _weights(parts),
        "code": lambda: _code(parts),
        "code, traced": lambda: _traced(parts),
        "code = weights": lambda: _code_equals_weights(parts),
        "onnx = weights": lambda: _onnx_equals_weights(parts),
        "accuracy": lambda: _accuracy(parts, data_root),
    }
    digests = f"{len(files) - 1} files have the SHA-256 that metrics.json names"
    return [Check("files", True, digests), *(_look(name, look) for name, look in looks.items())]


def _look(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except _Failure as failure:
        return Check(name, False, str(failure))
    except _Unknown as reason:
        return Check(name, None, str(reason))


# ------------------------------------------------------------------------------ files


def _read(bundle: Path) -> dict[str, bytes]:
    """The bundle's files by name, those of `metrics.json` with the digests it names."""
    files = {"metrics.json": _content(bundle, "metrics.json")}
    digests = _json(files, "metrics.json").get("files")
    if not isinstance(digests, dict):
        raise _Failure("metrics.json names no files")
    missing = [name for name in REQUIRED if name not in digests]
    if missing:
        raise _Failure(f"metrics.json does not name {', '.join(missing)}")
    for name, digest in digests.items():
        files[name] = _content(bundle, name)
        found = hashlib.sha256(files[name]).hexdigest()
        if found != digest:
            raise _Failure(f"{name}: SHA-256 is {found[:16]}…, but must be {str(digest)[:16]}…")
    return files


def _content(bundle: Path, name: str) -> bytes:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise _Failure(f"{name!r} leaves the bundle")
    place = bundle.joinpath(*path.parts)
    if not place.resolve().is_relative_to(bundle.resolve()):
        raise _Failure(f"{name} is a link that leaves the bundle")
    if not place.is_file():
        raise _Failure(f"{name} is missing")
    if place.stat().st_size > LARGEST:
        raise _Failure(f"{name} is larger than {LARGEST >> 20} MiB")
    return place.read_bytes()


def _json(files: Files, name: str) -> dict[str, Any]:
    try:
        content = json.loads(files[name])
    except (ValueError, RecursionError) as error:
        raise _Failure(f"{name}: {error}") from None
    if not isinstance(content, dict):
        raise _Failure(f"{name} must hold a JSON object")
    return content


@dataclass(frozen=True)
class _Claim:
    """What `metrics.json` says of the test."""

    correct: int
    share: float
    fingerprint: str
    normalization: Normalization

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> _Claim:
        try:
            accuracy, data = metrics["accuracy"], metrics["data"]
            mean, std = (tuple(float(n) for n in data[key]) for key in ("mean", "std"))
            return cls(
                int(accuracy["test_correct"]),
                float(accuracy["test"]),
                str(data["test_fingerprint"]),
                Normalization(mean, std),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _Failure(f"metrics.json tells no accuracy ({_one_line(error)})") from None


@dataclass(frozen=True)
class _Parts:
    """What a bundle's files hold."""

    files: Files
    metrics: dict[str, Any]
    claim: _Claim
    architecture: Architecture
    config: StudyConfig
    weights: dict[str, Tensor]
    verdict: Verdict

    @classmethod
    def of(cls, files: Files) -> _Parts:
        metrics = _json(files, "metrics.json")
        if metrics.get("version") != METRICS_VERSION:
            raise _Failure(f"metrics.json has version {metrics.get('version')!r}, not ours")
        try:
            architecture = Architecture.from_json(_json(files, "architecture.json"))
            config = parse(tomllib.loads(files["study.toml"].decode()), "study.toml")
            weights = load_tensors(files["model.safetensors"])
            verdict = check(architecture, config.rules)
        except (ArchitectureError, ConfigError, SafetensorError, ValueError) as error:
            raise _Failure(_one_line(error)) from None
        return cls(files, metrics, _Claim.of(metrics), architecture, config, weights, verdict)

    @property
    def source(self) -> str:
        return self.files["model.py"].decode(errors="replace")

    @property
    def inputs(self) -> Tensor:
        generator = torch.Generator().manual_seed(SEED)
        return torch.randn(PROBES, *self.architecture.input, generator=generator)

    def reference(self) -> nn.Module:
        """The network of `architecture.json` with the bundle's weights."""
        network = build(self.architecture).eval()
        names = {key: state_key(self.architecture, key) for key in network.state_dict()}
        odd = set(names.values()) ^ set(self.weights)
        if odd:
            raise _Failure(f"model.safetensors and architecture.json differ in {min(odd)}")
        try:
            network.load_state_dict({key: self.weights[name] for key, name in names.items()})
        except RuntimeError as error:
            raise _Failure(str(error).splitlines()[-1].strip()) from None
        return network

    def reference_logits(self) -> Logits:
        with torch.inference_mode():
            logits: Logits = self.reference()(self.inputs).numpy()
        return logits


# ----------------------------------------------------------------------------- checks


def _rules(parts: _Parts) -> str:
    facts, found = parts.verdict.analysis, wording.found(parts.verdict.analysis)
    for violation in parts.verdict.violations:
        raise _Failure(f"{wording.rule(violation.rule)}: {violation.message}")
    sides = [side for side in facts.receptive_field if side is not None]
    counted = {"parameters": facts.parameters, "macs": facts.macs, "receptive_field": min(sides)}
    for name, number in counted.items():
        if parts.metrics.get(name) != number:
            raise _Failure(
                f"metrics.json says {name} {parts.metrics.get(name)}, but it is {number}"
            )
    rules = parts.config.rules.rules
    return "; ".join(f"{wording.limit(r.key, r.value)}: {found[r.key]}" for r in rules)


def _weights(parts: _Parts) -> str:
    network = parts.reference()
    for name, tensor in parts.weights.items():
        if not torch.isfinite(tensor).all():
            raise _Failure(f"{name} holds a number that is not finite")
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"{count:,} parameters fit architecture.json"


def _code(parts: _Parts) -> str:
    try:
        isolated.require_plain(parts.source)
    except isolated.NotPlainError as error:
        raise _Failure(f"model.py is not run: {error}") from None
    return "model.py imports torch alone and calls layers alone"


def _traced(parts: _Parts) -> str:
    _require_plain(parts)
    shape, limits = parts.architecture.input, parts.config.rules.to_mapping()
    try:
        verdict = isolated.traced(parts.source, shape, limits)
    except isolated.RunError as error:
        raise _Failure(f"model.py: {error}") from None
    for violation in verdict["violations"]:
        raise _Failure(f"{wording.rule(violation['rule'])}: {violation['message']}")
    expected = parts.verdict.to_json()
    for key in ("receptive_field", "parameters", "macs"):
        if verdict[key] != expected[key]:
            raise _Failure(f"{key} is {verdict[key]}, but {expected[key]} in architecture.json")
    return "model.py, traced operation by operation, keeps every rule"


def _code_equals_weights(parts: _Parts) -> str:
    _require_plain(parts)
    try:
        logits = isolated.logits(
            parts.source, parts.files["model.safetensors"], parts.inputs.numpy()
        )
    except isolated.RunError as error:
        raise _Failure(f"model.py: {error}") from None
    return _require_equal("model.py", logits, parts)


def _require_plain(parts: _Parts) -> None:
    try:
        isolated.require_plain(parts.source)
    except isolated.NotPlainError:
        raise _Unknown("model.py is not run") from None


def _onnx_equals_weights(parts: _Parts) -> str:
    session = _session(parts)
    logits = _onnx_logits(session, parts.inputs.numpy())
    single = _onnx_logits(session, parts.inputs[:1].numpy())
    if single.shape != logits[:1].shape:
        raise _Failure("model.onnx does not take batches of any size")
    return _require_equal("model.onnx", logits, parts)


def _require_equal(name: str, logits: Logits, parts: _Parts) -> str:
    expected = parts.reference_logits()
    if logits.shape != expected.shape:
        raise _Failure(f"{name} gives {logits.shape}, not {expected.shape}")
    difference = float(np.abs(logits - expected).max())
    if not difference <= TOLERANCE:
        raise _Failure(f"logits of {name} differ by {difference:.2g}, more than {TOLERANCE:g}")
    return f"logits of {PROBES} random images agree within {difference:.1g}"


def _session(parts: _Parts) -> onnxruntime.InferenceSession:
    try:
        model = onnx.load_model_from_string(parts.files["model.onnx"])
        if any(tensor.external_data for tensor in model.graph.initializer):
            raise _Failure("model.onnx keeps weights outside of the bundle")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        return onnxruntime.InferenceSession(
            parts.files["model.onnx"], options, providers=["CPUExecutionProvider"]
        )
    except _Failure:
        raise
    except Exception as error:  # onnxruntime's own classes have no common base
        raise _Failure(f"model.onnx: {_one_line(error)}") from None


def _onnx_logits(session: onnxruntime.InferenceSession, images: NDArray[np.float32]) -> Logits:
    try:
        logits: Logits = session.run(None, {session.get_inputs()[0].name: images})[0]
    except Exception as error:  # as above
        raise _Failure(f"model.onnx: {_one_line(error)}") from None
    return logits


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --------------------------------------------------------------------------- accuracy


def _accuracy(parts: _Parts, data_root: Path | None) -> str:
    images = _test_images(parts.config.data, data_root)
    claim = parts.claim
    correct = _correct(parts, images)
    share = wording.percent(correct / len(images))
    if fingerprint(images) != claim.fingerprint:
        raise _Unknown(f"{share} on the images here, which are others than those of the test")
    # Sums in another order may tip an image or two that lie on the edge.
    told = wording.percent(claim.share)
    if abs(correct - claim.correct) > max(1, len(images) // 1_000):
        raise _Failure(f"{share} of the test images ({correct}), not {told} ({claim.correct})")
    return f"{share} of {len(images):,} test images, through model.onnx"


def _test_images(section: DataSection, root: Path | None) -> Images:
    section = section if root is None else section.model_copy(update={"root": root})
    parts = ("cifar-10-batches-py", "cifar-10-python.tar.gz")
    if section.kind == "cifar10" and not any((section.root / part).exists() for part in parts):
        raise _Unknown(f"not measured: no CIFAR-10 in {section.root}; name it with --data DIR")
    try:
        return load_test(section)
    except (ConfigError, MachineError) as error:
        raise _Unknown(f"not measured: {error}") from None


def _correct(parts: _Parts, images: Images) -> int:
    session = _session(parts)
    correct = 0
    for start in range(0, len(images), EVALUATION_BATCH):
        pixels = torch.from_numpy(images.pixels[start : start + EVALUATION_BATCH])
        inputs = parts.claim.normalization(pixels, torch.float32).contiguous().numpy()
        labels = images.labels[start : start + EVALUATION_BATCH]
        correct += int((_onnx_logits(session, inputs).argmax(axis=1) == labels).sum())
    return correct
