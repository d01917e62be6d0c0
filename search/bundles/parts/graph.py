"""`model.onnx`: the network for other runtimes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from search.bundles.contents import BundleError
from search.bundles.findings import Findings
from search.bundles.onnx_graph import onnx_graph, require_plain_graph
from search.bundles.parts.part import Look, Part
from search.errors import ConfigError, first_line
from search.training.foreign import Foreign

_TOLERANCE = 1e-4  # of a filter, in its largest weight


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
        """Torch folds a normalization into the convolution before it: its filters, each times a
        number, and its bias, which is any then."""
        require_plain_graph(self.bundle.files["model.onnx"], foreign=True)
        model = onnx.load_model_from_string(self.bundle.files["model.onnx"])
        graph = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        weights = {name: tensor.numpy() for name, tensor in self.bundle.weights.items()}
        both = [name for name in graph if name in weights]
        alike = [name for name in both if _alike(graph[name], weights[name])]
        for name in both:
            if name not in alike and not _takes_normalization(name, weights):
                raise BundleError(f"{name} is another in model.onnx than in model.safetensors")
        compared = sum(weights[name].size for name in alike)
        whole = sum(array.size for array in weights.values())
        more = sum(array.size for name, array in graph.items() if name not in alike)
        return (
            f"{compared:,} of the {whole:,} numbers of model.safetensors are in the graph, filters "
            f"up to a factor each; of its own it has {more:,}"
        )


def _takes_normalization(name: str, weights: Mapping[str, NDArray[np.float32]]) -> bool:
    """Whether it is the bias of a convolution."""
    layer, _, kind = name.rpartition(".")
    filters = weights.get(f"{layer}.weight")
    return kind == "bias" and filters is not None and filters.ndim > 2


def _alike(given: NDArray[np.float32], weight: NDArray[np.float32]) -> bool:
    """Whether the rows of `given` are those of `weight`, each times a number."""
    if given.shape != weight.shape:
        return False
    if weight.ndim < 2:
        return np.array_equal(given, weight)
    rows, others = (array.reshape(len(array), -1).astype(float) for array in (given, weight))
    factors = (rows * others).sum(1) / np.maximum((others**2).sum(1), 1e-30)
    left = np.abs(rows - factors[:, None] * others).max(1)
    return bool((left <= _TOLERANCE * np.maximum(np.abs(rows).max(1), 1e-30)).all())
