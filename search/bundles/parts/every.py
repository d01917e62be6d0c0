"""All parts of a bundle, in the order of their checks."""

from __future__ import annotations

from search.bundles.int8.part import Int8Files
from search.bundles.parts.code import Code
from search.bundles.parts.description import Description
from search.bundles.parts.graph import ModuleOnnx, Onnx
from search.bundles.parts.log import Log
from search.bundles.parts.module import Module
from search.bundles.parts.pages import Pages
from search.bundles.parts.part import Part
from search.bundles.parts.study import StudyFile
from search.bundles.parts.weights import ModuleWeights, Weights
from search.networks.architecture import Architecture
from search.networks.network import Network

PARTS: tuple[type[Part], ...] = (
    Description, Weights, Code, Onnx, StudyFile, Log, Pages, Int8Files,
)  # fmt: skip
OF_MODULES: tuple[type[Part], ...] = (
    Module, ModuleWeights, ModuleOnnx, StudyFile, Log, Pages, Int8Files,
)  # fmt: skip


def parts_of(network: Network) -> tuple[type[Part], ...]:
    """Those of the bundle of `network`."""
    return PARTS if isinstance(network, Architecture) else OF_MODULES
