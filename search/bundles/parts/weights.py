"""`model.safetensors`: what the network has learned."""

from __future__ import annotations

from collections.abc import Mapping

from safetensors.torch import save

from search.bundles.findings import Findings
from search.bundles.parts.part import Look, Part
from search.networks.source import state_key


class Weights(Part):
    """Weights and statistics, by the names that `model.py` gives them."""

    names = ("model.safetensors",)

    @classmethod
    def write(cls, findings: Findings) -> Mapping[str, bytes]:
        weights = {
            state_key(findings.candidate.architecture, key): tensor.detach().contiguous()
            for key, tensor in findings.network.state_dict().items()
        }
        return {"model.safetensors": save(weights, metadata={"format": "pt"})}

    @property
    def looks(self) -> Mapping[str, Look]:
        return {"weights": self._fit}

    def _fit(self) -> str:
        self.bundle.reference()
        return f"{self.bundle.verdict.analysis.parameters:,} parameters fit architecture.json"
