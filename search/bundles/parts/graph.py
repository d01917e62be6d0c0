"""`model.onnx`: the network for other runtimes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from search.bundles.contents import BundleError, UnknownError
from search.bundles.findings import Findings
from search.bundles.onnx_graph import numbers_of, onnx_graph, require_plain_graph
from search.bundles.parts.part import Look, Part
from search.errors import ConfigError, first_line
from search.training.foreign import Foreign

_TOLERANCE = 1e-4  # of a filter, in its largest weight
_SIZES = 100  # numbers that a graph has of its own: sizes of maps, exponents, constants


class Onnx(Part):
    """The ONNX graph with its weights."""

    names = ("model.onnx",)

    @classmethod
    def write(cls, findings: Findings) -> Mapping[str, bytes]:
        graph = onnx_graph(findings.network, findings.candidate.architecture.input)
        return {"model.onnx": graph}

    @property
    def looks(self) -> Mapping[str, Look]:
        return {"onnx = weights": lambda: self.proof.agree("model.onnx")}


def portable(network: nn.Module, input: tuple[int, int, int]) -> bytes:
    """A foreign module as a graph that others may run.

    Raises:
        ConfigError: torch cannot make it, or it has operations that `verify` would not run.
    """
    assert isinstance(network, Foreign)
    try:
        graph = onnx_graph(network.module, input)
        require_plain_graph(graph, foreign=True)
        _require_open(graph)
    except BundleError as error:
        raise ConfigError(f"no bundle can be made of this module: {error}") from None
    except Exception as error:  # torch's exporter has many, and the module's code its own
        raise ConfigError(f"torch cannot export this module as ONNX: {first_line(error)}") from None
    return graph


def _require_open(graph: bytes) -> None:
    (images,) = onnx.load_model_from_string(graph).graph.input
    if not images.type.tensor_type.shape.dim[0].dim_param:
        raise BundleError("its code fixes how many images it takes; x.size(0) tells, len(x) fixes")


class ModuleOnnx(Onnx):
    """The graph of a module, which is all that runs of its bundle."""

    @classmethod
    def write(cls, findings: Findings) -> Mapping[str, bytes]:
        return {"model.onnx": portable(findings.network, findings.candidate.architecture.input)}

    @property
    def looks(self) -> Mapping[str, Look]:
        return {"onnx = weights": self._of_weights}

    def _of_weights(self) -> str:
        content = self.bundle.files["model.onnx"]
        require_plain_graph(content, foreign=True)
        weights = {name: tensor.numpy() for name, tensor in self.bundle.weights.items()}
        found = in_graph(content, weights)
        told = (
            f"{found.compared:,} of the {sum(each.size for each in weights.values()):,} numbers of "
            "model.safetensors are in the graph, filters up to a factor each; of its own it has "
            f"{found.own:,}"
        )
        if found.own > found.biases + _SIZES:
            raise UnknownError(
                f"{told}, but normalizations leave {found.biases:,} at most: what it answers may "
                "rest on others than these weights"
            )
        return told


class Shared(NamedTuple):
    """How many numbers of a graph are weights, how many are its `own`, and how many of those may
    be the `biases` of its filters."""

    compared: int
    own: int
    biases: int


def in_graph(content: bytes, weights: Mapping[str, NDArray[Any]]) -> Shared:
    """What a graph shares with the `weights`, by name, that it was made of.

    Torch folds a normalization into the convolution before it: its filters, each times a number,
    and its bias, which is any then.  Other weights it turns, each in one way, or gives other
    shapes and names.

    Raises:
        BundleError: a weight is another in the graph.
    """
    graph, within = numbers_of(content)
    alike = {name for name in graph.keys() & weights.keys() if _alike(graph[name], weights[name])}
    for name in graph.keys() & weights.keys() - alike:
        if not _takes_normalization(name, weights):
            raise BundleError(f"{name} is another in model.onnx than in model.safetensors")
    left = Counter(_values(weights[name]) for name in weights.keys() - alike)
    turned: set[str] = set()
    orders: dict[bytes, set[bytes]] = {values: set() for values in left}
    others: dict[str, int] = {}
    for name in sorted(graph.keys() - alike):
        values, order = _values(graph[name]), _digest(graph[name])
        if len(orders.get(values, ())) < left[values]:
            orders[values].add(order)
            turned.add(name)
        elif order not in orders.get(values, ()):  # in another order it may tell anything
            others[name] = graph[name].size
    return Shared(
        compared=sum(graph[name].size for name in alike | turned),
        own=within + sum(others.values()),
        biases=sum(len(graph[name]) for name in alike if graph[name].ndim > 2),
    )


def _takes_normalization(name: str, weights: Mapping[str, NDArray[np.float32]]) -> bool:
    """Whether it is the bias of a convolution."""
    layer, _, kind = name.rpartition(".")
    filters = weights.get(f"{layer}.weight")
    return kind == "bias" and filters is not None and filters.ndim > 2


def _values(array: NDArray[Any]) -> bytes:
    """The same for arrays of the same numbers, in whatever order."""
    return _digest(np.sort(array, axis=None))


def _digest(array: NDArray[Any]) -> bytes:
    return hashlib.sha256(array.tobytes()).digest()


def _alike(given: NDArray[np.float32], weight: NDArray[np.float32]) -> bool:
    """Whether the rows of `given` are those of `weight`, each times a number."""
    if given.shape != weight.shape:
        return False
    if weight.ndim < 2 or not weight.size:
        return np.array_equal(given, weight)
    rows, others = (array.reshape(len(array), -1).astype(float) for array in (given, weight))
    factors = (rows * others).sum(1) / np.maximum((others**2).sum(1), 1e-30)
    left = np.abs(rows - factors[:, None] * others).max(1)
    return bool((left <= _TOLERANCE * np.maximum(np.abs(rows).max(1), 1e-30)).all())
