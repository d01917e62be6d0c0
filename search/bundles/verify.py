"""Proves a bundle again: its rules, code = weights = ONNX, its accuracy, and its numbers.

A bundle is untrusted.  Its files are read once, compared with their SHA-256, and used from
memory from then on; its code and its graph are not run in this process (`isolated.py`).
"""

from __future__ import annotations

import operator
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import CodeType

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from constraints import Verdict, check
from search.bundles import agreement, isolated, metrics, page, plain
from search.bundles.agreement import DisagreementError, Tally
from search.bundles.contents import (
    BundleError,
    Files,
    printable,
    read_file,
    read_json,
    read_named,
    unnamed,
)
from search.bundles.files import REQUIRED, fingerprint
from search.bundles.held_out import NoImagesError, read_test_set
from search.bundles.isolated import Predict
from search.bundles.metrics import Metrics
from search.bundles.numbers import compare_numbers, from_log, from_tally, tolerance
from search.bundles.onnx_graph import require_plain_graph
from search.config.files import parse
from search.config.sections import DEFAULT_LIMITS, StudyConfig
from search.data.datasets import Images
from search.data.normalization import Normalization
from search.display import wording
from search.errors import ConfigError
from search.networks.architecture import Architecture, ArchitectureError
from search.networks.module import build
from search.networks.source import state_key

# Beyond any network of this kind; above them a bundle could exhaust the machine.
LARGEST_PARAMETERS = 2**26
LARGEST_MACS = 10**11
LARGEST_MAPS = 2**28  # bytes of feature maps of one image


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.  `ok` is None where it could not be."""

    name: str
    ok: bool | None
    detail: str


class _Unknown(Exception):  # noqa: N818 - the outcome of a check
    """Why a check cannot be made, in one line."""


_FOUND = (BundleError, DisagreementError, isolated.RunError, _Unknown)


def verify(bundle: Path, data_root: Path | None = None, seed: int | None = None) -> list[Check]:
    """The checks of the bundle in directory `bundle`.

    Where the files are not what `metrics.json` says, nothing else is looked at.
    `data_root` overrules where the bundle's data lies; nothing is downloaded, and nothing is
    written but temporary files.  `seed` repeats the random images of another run.

    Raises:
        ConfigError: there is no bundle.
    """
    if not os.path.lexists(bundle / "metrics.json"):
        raise ConfigError(f"{bundle}: no bundle (it holds no metrics.json)")
    try:
        files, stated = _read(bundle)
        parts = _Parts.of(files, stated, int.from_bytes(os.urandom(4)) if seed is None else seed)
    except BundleError as failure:
        return [Check("files", False, printable(str(failure)))]
    proof = _Proof(parts, data_root)
    digests = f"{len(files)} files have the SHA-256 that metrics.json names"
    checks = [Check("files", True, digests)]
    others = unnamed(bundle, files)
    if others:
        names = f"{', '.join(others[:5])}{', …' if len(others) > 5 else ''}"
        says = f"{len(others)} not named in metrics.json, so not proved: {names}"
        checks.append(Check("other files", None, printable(says)))
    return [*checks, *(_look(name, look) for name, look in proof.looks.items())]


def _look(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, printable(look()))
    except _Unknown as reason:
        return Check(name, None, printable(str(reason)))
    except _FOUND as failure:
        return Check(name, False, printable(str(failure)))


# ------------------------------------------------------------------------------ files


def _read(bundle: Path) -> tuple[Files, Metrics]:
    """The files that `metrics.json` names, and what it says."""
    stated = metrics.read(read_file(bundle, "metrics.json"))
    missing = [name for name in REQUIRED if name not in stated.files]
    if missing:
        raise BundleError(f"metrics.json does not name {', '.join(missing)}")
    # Weights and statistics in float32, and as much again for names and headers.
    numbers = min(8 * stated.parameters + 2**20, 8 * LARGEST_PARAMETERS)
    largest = {"model.safetensors": numbers, "model.onnx": numbers}
    return read_named(bundle, stated.files, largest), stated


@dataclass(frozen=True)
class _Parts:
    """What a bundle's files hold."""

    files: Files
    stated: Metrics
    seed: int
    architecture: Architecture
    config: StudyConfig
    weights: dict[str, Tensor]
    verdict: Verdict

    @classmethod
    def of(cls, files: Files, stated: Metrics, seed: int) -> _Parts:
        try:
            content = read_json(files["architecture.json"], "architecture.json")
            architecture = Architecture.from_json(content)
            config = parse(tomllib.loads(files["study.toml"].decode()), "study.toml")
            verdict = check(architecture, config.rules)
            _require_small(verdict)
            weights = load_tensors(files["model.safetensors"])
        except BundleError:
            raise
        except (
            ArchitectureError,
            ConfigError,
            SafetensorError,
            ValueError,
            RecursionError,
        ) as error:
            raise BundleError(_one_line(error)) from None
        channels = architecture.input[0]
        for key in ("mean", "std"):
            if len(getattr(stated.data, key)) != channels:
                raise BundleError(f"metrics.json: data.{key} must have {channels} numbers")
        return cls(files, stated, seed, architecture, config, weights, verdict)

    @cached_property
    def normalization(self) -> Normalization:
        return Normalization(self.stated.data.mean, self.stated.data.std)

    @property
    def classes(self) -> int:
        return self.architecture.output.classes

    def work(self, images: int) -> float:
        """Multiply-adds for so many images."""
        return float(self.verdict.analysis.macs) * images

    @cached_property
    def code(self) -> CodeType:
        """Of `model.py`.

        Raises:
            _Unknown: it is not run.
        """
        try:
            return plain.compiled(self.files["model.py"])
        except plain.NotPlainError:
            raise _Unknown("model.py is not run") from None

    def reference(self) -> nn.Module:
        """The network of `architecture.json` with the bundle's weights."""
        with torch.device("meta"):
            network = build(self.architecture).eval()
        expected = network.state_dict()
        names = {key: state_key(self.architecture, key) for key in expected}
        odd = set(names.values()) ^ set(self.weights)
        if odd:
            raise BundleError(f"model.safetensors and architecture.json differ in {min(odd)}")
        for key, name in names.items():
            given, wanted = self.weights[name], expected[key]
            if (given.shape, given.dtype) != (wanted.shape, wanted.dtype):
                raise BundleError(
                    f"model.safetensors: {name} is {_kind(given)}, but must be {_kind(wanted)}"
                )
            if not torch.isfinite(given).all():
                raise BundleError(f"{name} holds a number that is not finite")
        network.load_state_dict({k: self.weights[n] for k, n in names.items()}, assign=True)
        return network


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _require_small(verdict: Verdict) -> None:
    facts = verdict.analysis
    for found, largest, what in (
        (facts.parameters, LARGEST_PARAMETERS, "parameters"),
        (facts.macs, LARGEST_MACS, "MACs"),
        (facts.activation_bytes, LARGEST_MAPS, "bytes of feature maps"),
    ):
        if found > largest:
            raise BundleError(f"architecture.json: {found:,} {what}, but at most {largest:,}")


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _weaker(limits: Mapping[str, int]) -> list[str]:
    """The rules of the requirement that `limits` asks less of, or nothing at all."""
    return [
        f"{wording.rule(key)} {limits.get(key, 'not asked')}, usually {usual}"
        for key, usual in DEFAULT_LIMITS.items()
        if key not in limits or _WEAKER[key](limits[key], usual)
    ]


_WEAKER: dict[str, Callable[[int, int], bool]] = {
    "receptive_field": operator.lt,
    "parameters": operator.gt,
    "downsampling": operator.ne,
    "depthwise_separable": operator.lt,
    "dilated": operator.lt,
}


# ----------------------------------------------------------------------------- checks


@dataclass(frozen=True)
class _Proof:
    """The checks of one bundle; each answers with what it found."""

    parts: _Parts
    data_root: Path | None

    @property
    def looks(self) -> Mapping[str, Callable[[], str]]:
        """The checks by name, in their order."""
        return {
            "rules": self._rules,
            "weights": self._weights,
            "code": self._code,
            "code, traced": self._traced,
            "code = weights": lambda: self._agree("model.py"),
            "onnx = weights": lambda: self._agree("model.onnx"),
            "numbers": self._numbers,
            "report": lambda: page.require_still(self.parts.files["report.html"]),
            "accuracy": self._accuracy,
        }

    def _rules(self) -> str:
        verdict, found = self.parts.verdict, wording.found(self.parts.verdict.analysis)
        for violation in verdict.violations:
            raise BundleError(f"{wording.rule(violation.rule)}: {violation.message}")
        rules = self.parts.config.rules.rules
        told = "; ".join(f"{wording.limit(r.key, r.value)}: {found[r.key]}" for r in rules)
        weaker = _weaker(self.parts.config.limits)
        return f"{told}. WEAKER THAN USUAL: {', '.join(weaker)}" if weaker else told

    def _weights(self) -> str:
        self.parts.reference()
        return f"{self.parts.verdict.analysis.parameters:,} parameters fit architecture.json"

    def _code(self) -> str:
        try:
            plain.compiled(self.parts.files["model.py"])
        except plain.NotPlainError as error:
            raise BundleError(f"model.py is not run: {error}") from None
        return "model.py imports torch alone and calls layers alone"

    def _traced(self) -> str:
        parts = self.parts
        limits = parts.config.rules.to_mapping()
        verdict = isolated.traced(parts.code, parts.architecture.input, limits)
        expected = parts.verdict.to_json()
        try:
            broken = [f"{wording.rule(v['rule'])}: {v['message']}" for v in verdict["violations"]]
            differ = [key for key in _COUNTED if verdict[key] != expected[key]]
        except (KeyError, TypeError) as error:
            raise BundleError(f"model.py answers with no verdict ({error})") from None
        for message in broken:
            raise BundleError(message)
        for key in differ:
            raise BundleError(f"{key} is {verdict[key]}, but {expected[key]} in architecture.json")
        return "model.py, traced operation by operation, keeps every rule"

    def _agree(self, name: str) -> str:
        """On random images: fresh ones, which nobody could know."""
        images = agreement.probes(
            self.parts.architecture.input, self.parts.normalization, self.parts.seed
        )
        with self._ways([name], len(images)) as ways:
            _, difference = agreement.compare(ways, images, self.parts.classes)
            agreement.compare(ways, images[:1], self.parts.classes)
        return (
            f"logits of {len(images)} random images (seed {self.parts.seed}) agree within "
            f"{difference:.1g}"
        )

    @contextmanager
    def _ways(self, names: Iterable[str], images: int) -> Iterator[dict[str, Predict]]:
        """Our own way and those of `names`, each in its process."""
        parts, shape = self.parts, self.parts.architecture.input
        work = parts.work(2 * images)
        ways = {agreement.WEIGHTS: agreement.own(parts.reference())}
        with ExitStack() as stack:
            for name in names:
                if name == "model.py":
                    weights = parts.files["model.safetensors"]
                    process = isolated.network(parts.code, weights, shape, work)
                else:
                    require_plain_graph(parts.files["model.onnx"])
                    process = isolated.onnx(parts.files["model.onnx"], shape, work)
                ways[name] = stack.enter_context(process)
            yield ways

    @cached_property
    def _tally(self) -> Tally:
        """What all ways make of the test images, which must be the same, image by image."""
        parts, images = self.parts, self._images
        tally = Tally(parts.classes)
        with self._ways(self._runnable, len(images)) as ways:
            for inputs, labels in agreement.batches(images, parts.normalization):
                logits, _ = agreement.compare(ways, inputs, parts.classes)
                tally.add(logits, labels)
        return tally

    @property
    def _runnable(self) -> list[str]:
        try:
            return ["model.py", "model.onnx"] if self.parts.code else []
        except _Unknown:
            return ["model.onnx"]

    @cached_property
    def _images(self) -> Images:
        section, shape = self.parts.config.data, self.parts.architecture.input
        if self.data_root is not None:
            section = section.model_copy(update={"root": self.data_root})
        try:
            images = read_test_set(section)
        except NoImagesError as error:
            raise _Unknown(f"not measured: {error}") from None
        _, height, width, channels = images.pixels.shape
        if (channels, height, width) != shape or images.labels.max() >= self.parts.classes:
            raise _Unknown(f"not measured: the images here are no {list(shape)} of these classes")
        return images

    @property
    def _measured(self) -> bool:
        """Whether the images on which accuracy is claimed are here."""
        return fingerprint(self._images) == self.parts.stated.data.test_fingerprint

    def _accuracy(self) -> str:
        tally, claim = self._tally, self.parts.stated.accuracy
        correct, total = int(tally.correct.sum()), int(tally.members.sum())
        share = wording.percent(correct / total)
        if not self._measured:
            raise _Unknown(f"{share} on the images here, which are others than those of the test")
        if abs(correct - claim.test_correct) > tolerance(total):
            told = wording.percent(claim.test)
            raise BundleError(
                f"{share} of the test images ({correct}), not {told} ({claim.test_correct})"
            )
        ways = ", ".join([agreement.WEIGHTS, *self._runnable])
        return f"{share} of {total:,} test images, by {ways}, which agree on each"

    def _numbers(self) -> str:
        parts, facts = self.parts, self.parts.verdict.analysis
        sides = [side for side in facts.receptive_field if side is not None]
        found: dict[str, tuple[object, float]] = {
            "parameters": (facts.parameters, 0),
            "macs": (facts.macs, 0),
            "receptive_field": (min(sides, default=None), 0),
            "architecture": (parts.architecture.hash, 0),
            "study": (parts.config.study.name, 0),
            "target": (parts.config.study.target, 0),
            "seeds.study": (parts.config.study.seed, 0),
            "seeds.data": (parts.config.data.seed, 0),
            "seeds.augmentation": (parts.config.augmentation.seed, 0),
            "data.name": (parts.config.data.kind, 0),
            **from_log(parts.files["training_log.csv"]),
        }
        try:
            if self._measured:
                found |= from_tally(self._tally, parts.stated.data.classes)
                found["data.test_fingerprint"] = (parts.stated.data.test_fingerprint, 0)
        except _FOUND:
            pass  # `accuracy` says so
        return compare_numbers(parts.stated, found)


_COUNTED = ("receptive_field", "parameters", "macs")
