"""What the files of a bundle hold, once they are known to be its own and of bounded size."""

from __future__ import annotations

import tomllib
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from constraints import Verdict, check
from search.analysis.traced import TracedModule, network_of
from search.bundles import metrics, plain
from search.bundles.contents import (
    BundleError,
    Files,
    UnknownError,
    read_file,
    read_json,
    read_named,
)
from search.bundles.metrics import Data, Metrics
from search.bundles.plain import NotPlainError, Plain
from search.config.files import parse
from search.config.sections import StudyConfig
from search.data.normalization import Normalization
from search.networks.architecture import Architecture
from search.networks.module import build
from search.networks.network import Network
from search.networks.source import state_key

WEIGHTS = "weights"

# Beyond any network of this kind; above them a bundle could exhaust the machine.
LARGEST_PARAMETERS = 2**26
LARGEST_MACS = 10**11
LARGEST_MAPS = 2**28  # bytes of feature maps of one image

_KINDS = frozenset(
    {
        *(torch.float32, torch.float64, torch.float16, torch.bool),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    }
)  # of numbers that numpy has, too

# What is read here; each part of a bundle says which files it must have besides.
_READ = ("model.safetensors", "model.onnx", "study.toml")
_OURS, _MODULE = ("model.py", "architecture.json"), ("module.json",)


@dataclass(frozen=True)
class Bundle:
    """What a bundle's files hold."""

    place: Path
    files: Files
    stated: Metrics
    architecture: Network
    config: StudyConfig
    weights: dict[str, Tensor]
    verdict: Verdict

    @classmethod
    def of(cls, place: Path) -> Bundle:
        """The bundle in directory `place`.

        Raises:
            BundleError: its files are not those that `metrics.json` names, or mean nothing.
        """
        files, stated = _read(place)
        described = _MODULE[0] if _is_module(files) else "architecture.json"
        with _blamed(described):
            architecture = _network(read_json(files[described], described), described)
        with _blamed("study.toml"):
            config = parse(tomllib.loads(files["study.toml"].decode()), "study.toml")
            if config.study.storage is not None:  # it may hold a password, so it is not shown
                raise BundleError("names a database, where whoever launches it would meet others")
        with _blamed(described):
            verdict = check(architecture, config.rules)
            _require_small(verdict)
        with _blamed("model.safetensors"):
            weights = _tensors(files["model.safetensors"])
        _require_lengths(stated.data, architecture)
        return cls(place, files, stated, architecture, config, weights, verdict)

    @cached_property
    def normalization(self) -> Normalization:
        return Normalization(self.stated.data.mean, self.stated.data.std)

    @property
    def classes(self) -> int:
        return self.architecture.classes

    @property
    def generated(self) -> Architecture:
        """The network of a bundle that holds no module."""
        assert isinstance(self.architecture, Architecture)
        return self.architecture

    @property
    def foreign(self) -> bool:
        """Whether it holds a module."""
        return not isinstance(self.architecture, Architecture)

    @property
    def ways(self) -> tuple[str, ...]:
        """What there is that makes logits of images; the code of a module is not run."""
        if self.foreign:
            return ("model.onnx",)
        code = () if isinstance(self.judgment, str) else ("model.py",)
        return (WEIGHTS, *code, "model.onnx")

    def work(self, images: int) -> float:
        """Multiply-adds for so many images."""
        return float(self.verdict.analysis.macs) * images

    @cached_property
    def judgment(self) -> Plain | str:
        """`model.py`, or why it is not run."""
        try:
            return plain.judged(self.files["model.py"])
        except NotPlainError as error:
            return f"model.py is not run: {error}"

    @property
    def code(self) -> Plain:
        """`model.py`.

        Raises:
            UnknownError: it is not run.
        """
        if isinstance(self.judgment, str):
            raise UnknownError("model.py is not run")
        return self.judgment

    def reference(self) -> nn.Module:
        """The network of `architecture.json` with the bundle's weights.

        Raises:
            BundleError: they are not the weights of it, in float32, each a number.
        """
        with torch.device("meta"):
            network = build(self.generated).eval()
        wanted = {state_key(self.generated, k): (k, t) for k, t in network.state_dict().items()}
        odd = wanted.keys() ^ self.weights.keys()
        if odd:
            raise BundleError(f"model.safetensors and architecture.json differ in {min(odd)}")
        for name, (_, tensor) in wanted.items():
            _require_like(name, self.weights[name], tensor)
        state = {key: self.weights[name] for name, (key, _) in wanted.items()}
        network.load_state_dict(state, assign=True)
        return network


def _read(place: Path) -> tuple[Files, Metrics]:
    """The files that `metrics.json` names, and what it says."""
    stated = metrics.read(read_file(place, "metrics.json"))
    stated.require_named((*_READ, *(_MODULE if _is_module(stated.files) else _OURS)))
    # Weights and statistics in float32, and as much again for names and headers.
    stated_numbers = 8 * stated.parameters + 2**20
    # A module may have weights that do not count, as frozen ones.
    several = 8 if _is_module(stated.files) else 1
    numbers = min(several * stated_numbers, 8 * LARGEST_PARAMETERS)
    largest = {"model.safetensors": numbers, "model.onnx": numbers}
    return read_named(place, stated.files, largest), stated


def _is_module(names: Container[str]) -> bool:
    """Whether a bundle of files with these names holds a module, and no network of ours."""
    return _MODULE[0] in names and not any(name in names for name in _OURS)


def _network(content: Mapping[str, Any], name: str) -> Network:
    if name not in _MODULE:
        return Architecture.from_json(content)
    network = network_of(content.get("network"))
    if not isinstance(network, TracedModule):
        raise BundleError("describes no module")
    return network


def _tensors(content: bytes) -> dict[str, Tensor]:
    try:
        tensors = load_tensors(content)
    except KeyError as error:  # a kind that the format has and torch has not
        raise BundleError(f"holds numbers of kind {error.args[0]}") from None
    for name, tensor in tensors.items():
        if tensor.dtype not in _KINDS:
            raise BundleError(f"{name} is {_kind(tensor)}, which nothing compares")
    return tensors


def _require_like(name: str, given: Tensor, wanted: Tensor) -> None:
    if (given.shape, given.dtype) != (wanted.shape, wanted.dtype):
        raise BundleError(
            f"model.safetensors: {name} is {_kind(given)}, but must be {_kind(wanted)}"
        )
    require_finite(name, given)


def require_finite(name: str, weights: Tensor) -> None:
    """Accepts weights that are numbers, each of them; `name` is what the bundle calls them."""
    if not torch.isfinite(weights).all():
        raise BundleError(f"model.safetensors: {name} holds a number that is not finite")


def _require_lengths(data: Data, network: Network) -> None:
    channels, classes = network.input[0], network.classes
    wanted = {"mean": channels, "std": channels, "classes": classes}
    for key, length in wanted.items():
        values = getattr(data, key)
        if values is not None and len(values) != length:
            raise BundleError(f"metrics.json: data.{key} must have {length} entries")


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
            raise BundleError(f"{found:,} {what}, but at most {largest:,}")


@contextmanager
def _blamed(name: str) -> Iterator[None]:
    """What fails within is the fault of file `name`."""
    try:
        yield
    except (SafetensorError, ArithmeticError, ValueError, RecursionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BundleError(f"{name}: {reason.removeprefix(f'{name}: ')}") from None
