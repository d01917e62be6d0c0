"""`model.onnx`: the network for other runtimes."""

from __future__ import annotations

from collections.abc import Mapping

from search.bundles.findings import Findings
from search.bundles.onnx_graph import onnx_graph
from search.bundles.parts.part import Look, Part


class Graph(Part):
    """The ONNX graph with its weights."""

    names = ("model.onnx",)

    @classmethod
    def write(cls, findings: Findings) -> Mapping[str, bytes]:
        graph = onnx_graph(findings.network, findings.candidate.architecture.input)
        return {"model.onnx": graph}

    @property
    def looks(self) -> Mapping[str, Look]:
        return {"onnx = weights": lambda: self.proof.agree("model.onnx")}
