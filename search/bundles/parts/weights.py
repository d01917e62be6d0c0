"""`model.safetensors`: what the network has learned."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import save

from search.bundles.bundle import require_finite
from search.bundles.contents import BundleError, read_json
from search.bundles.findings import Findings
from search.bundles.numbers import Found
from search.bundles.parts.part import Look, Part
from search.networks.source import state_key


class Weights(Part):
    """Weights and statistics, by the names that `model.py` gives them."""

    names = ("model.safetensors",)

    @classmethod
    def write(cls, findings: Findings) -> Mapping[str, bytes]:
        weights = {
            state_key(findings.architecture, key): tensor.detach().contiguous()
            for key, tensor in findings.network.state_dict().items()
        }
        return {"model.safetensors": save(weights, metadata={"format": "pt"})}

    @property
    def looks(self) -> Mapping[str, Look]:
        return {"weights": self._fit}

    def _fit(self) -> str:
        self.bundle.reference()
        return f"{self.bundle.verdict.analysis.parameters:,} parameters fit architecture.json"


class ModuleWeights(Weights):
    """Weights and statistics, by the names that the module's own `state_dict` has."""

    @classmethod
    def write(cls, findings: Findings) -> Mapping[str, bytes]:
        rows = torch.contiguous_format
        weights = {  # a tensor with two names is written twice
            key.removeprefix("module."): tensor.detach().clone(memory_format=rows)
            for key, tensor in findings.network.state_dict().items()
            if isinstance(tensor, torch.Tensor)
        }
        return {"model.safetensors": save(weights, metadata={"format": "pt"})}

    def _fit(self) -> str:
        for name, tensor in self.bundle.weights.items():
            require_finite(name, tensor)
        counted = self._parameters
        if counted != self.bundle.verdict.analysis.parameters:
            raise BundleError(
                f"model.safetensors has {counted:,} parameters, but module.json "
                f"{self.bundle.verdict.analysis.parameters:,}"
            )
        others = sum(tensor.numel() for tensor in self.bundle.weights.values()) - counted
        return (
            f"{counted:,} parameters, as module.json names them, and {others:,} numbers that are "
            "not trained; which are trained its code tells alone"
        )

    @property
    def _parameters(self) -> int:
        names = read_json(self.bundle.files["module.json"], "module.json").get("parameters")
        if not isinstance(names, list) or len(names) != len({*map(str, names)}):
            raise BundleError("module.json: parameters must be names, each once")
        missing = [name for name in map(str, names) if name not in self.bundle.weights]
        if missing:
            raise BundleError(f"model.safetensors has no {missing[0]}, which module.json names")
        return sum(self.bundle.weights[name].numel() for name in names)

    @property
    def found(self) -> Found:
        return {"parameters": (self._parameters, 0)}
