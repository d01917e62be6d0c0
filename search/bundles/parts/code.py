"""`model.py`: the network as code that needs torch alone."""

from __future__ import annotations

from collections.abc import Mapping

from search.bundles import numbers
from search.bundles.contents import BundleError, UnknownError
from search.bundles.findings import Findings
from search.bundles.metrics import Metrics
from search.bundles.numbers import Found
from search.bundles.parts.part import Look, Part
from search.bundles.plain import judged
from search.display import wording
from search.networks.source import generate

_COUNTED = ("receptive_field", "parameters", "macs")


class Code(Part):
    """The code, which is judged before it is run, and run apart."""

    names = ("model.py",)

    @classmethod
    def write(cls, findings: Findings) -> Mapping[str, bytes]:
        metrics = findings.metrics
        source = generate(
            findings.architecture,
            title=f"The network that trial {metrics.trial} of study {metrics.study} found.",
            facts=_facts(metrics),
            classes=findings.dataset.classes,
            mean=metrics.data.mean,
            std=metrics.data.std,
        )
        return {"model.py": source.encode()}

    @property
    def looks(self) -> Mapping[str, Look]:
        return {
            "code": self._plain,
            "code, traced": self._traced,
            "code = weights": lambda: self.proof.agree("model.py"),
        }

    def _plain(self) -> str:
        found = self.bundle.judgment
        if isinstance(found, str):
            raise BundleError(found)
        written = generate(self.bundle.generated, title="", facts=(), classes=(), mean=(), std=())
        told = "model.py imports torch alone and calls layers alone"
        if found.operations != judged(written.encode()).operations:
            raise UnknownError(
                f"{told}, but is not what this version writes for architecture.json: on images "
                "that are not tried here it may answer anything"
            )
        return f"{told}, as this version writes it for architecture.json"

    def _traced(self) -> str:
        verdict, expected = self.proof.traced, self.bundle.verdict.to_json()
        if isinstance(verdict, str):
            raise BundleError(f"model.py: {verdict}")
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

    @property
    def found(self) -> Found:
        if not isinstance(self.bundle.judgment, str):
            numbers.require_constants(self.bundle.judgment.constants, self.bundle.stated)
        return {}


def _facts(metrics: Metrics) -> list[str]:
    return [
        f"{metrics.parameters:,} parameters; {metrics.macs:,} multiply-adds for one image; "
        f"receptive field {metrics.receptive_field} pixels.",
        f"{metrics.accuracy.test:.2%} of {metrics.data.test:,} test images classified correctly.",
        "",
        'Weights: network.load_state_dict(safetensors.torch.load_file("model.safetensors")).',
    ]
