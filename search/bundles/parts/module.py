"""`module.json`: a module as the checker found it, in place of code and architecture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from search.analysis.traced import TracedModule
from search.bundles.contents import BundleError, UnknownError
from search.bundles.findings import Findings
from search.bundles.numbers import Found
from search.bundles.parts.description import rules_in_words
from search.bundles.parts.part import Look, Part
from search.display import wording
from search.training.foreign import Foreign


class Module(Part):
    """The table of a module, and the names of its trainable weights.

    Nobody runs its code to prove a bundle, so what only its code tells is not proved.
    """

    names = ("module.json",)

    @classmethod
    def write(cls, findings: Findings) -> Mapping[str, bytes]:
        network, built = findings.candidate.architecture, findings.network
        assert isinstance(network, TracedModule)
        assert isinstance(built, Foreign)
        content = {
            # Where its file lies is nobody's business.
            "network": replace(network, module=network.name).to_json(),
            "parameters": built.trainable,
        }
        return {"module.json": f"{json.dumps(content, indent=2)}\n".encode()}

    @property
    def _network(self) -> TracedModule:
        network = self.bundle.architecture
        assert isinstance(network, TracedModule)
        return network

    @property
    def looks(self) -> Mapping[str, Look]:
        return {"rules": self._rules, "code": self._code}

    def _rules(self) -> str:
        told = rules_in_words(self.bundle)
        raise UnknownError(f"as module.json has them, and not computed again: {told}")

    def _code(self) -> str:
        network = self._network
        raise UnknownError(
            f"a module's is not run: whether {network.name} (SHA-256 {network.sha256[:16]}…) makes "
            f"this network, `check {network.name}` tells"
        )

    @property
    def found(self) -> Found:
        stated, facts = self.bundle.stated, self.bundle.verdict.analysis
        field = facts.smaller_field
        if (stated.macs, stated.receptive_field) != (facts.macs, field):
            raise BundleError(
                f"module.json has {wording.macs(facts.macs)} MACs and receptive field {field}, "
                "metrics.json others"
            )
        return {"architecture": (self._network.hash, 0)}
