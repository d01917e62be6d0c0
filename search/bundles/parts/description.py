"""`architecture.json`: the network as the generator and the checker read it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from constraints import Limits
from search.bundles.bundle import Bundle
from search.bundles.contents import BundleError
from search.bundles.findings import Findings
from search.bundles.numbers import Found
from search.bundles.parts.part import Look, Part
from search.config.sections import DEFAULT_LIMITS
from search.display import wording


class Description(Part):
    """The architecture, which must keep the rules of the bundle's study."""

    names = ("architecture.json",)

    @classmethod
    def write(cls, findings: Findings) -> Mapping[str, bytes]:
        content = json.dumps(findings.architecture.to_json(), indent=2)
        return {"architecture.json": f"{content}\n".encode()}

    @property
    def looks(self) -> Mapping[str, Look]:
        return {"rules": self._rules}

    def _rules(self) -> str:
        return rules_in_words(self.bundle)

    @property
    def found(self) -> Found:
        """What arithmetic tells."""
        facts = self.bundle.verdict.analysis
        return {
            "parameters": (facts.parameters, 0),
            "macs": (facts.macs, 0),
            "receptive_field": (facts.smaller_field, 0),
            "architecture": (self.bundle.architecture.hash, 0),
        }


def rules_in_words(bundle: Bundle) -> str:
    """What a bundle's network has of what each rule asks.

    Raises:
        BundleError: it breaks one.
    """
    verdict, rules = bundle.verdict, bundle.config.rules
    for violation in verdict.violations:
        raise BundleError(f"{wording.rule(violation.rule)}: {violation.message}")
    told = "; ".join(
        f"{rule}: {wording.count(rule.found(verdict.analysis))}" for rule in rules.rules
    )
    weaker = _weaker(rules)
    return f"{told}. WEAKER THAN USUAL: {', '.join(weaker)}" if weaker else told


def _weaker(limits: Limits) -> list[str]:
    """The rules of the requirement that `limits` asks less of, or nothing at all."""
    asked = {rule.key: rule for rule in limits.rules}
    return [
        f"{usual.words} {asked[usual.key].value if usual.key in asked else 'not asked'}, "
        f"usually {usual.value}"
        for usual in Limits.from_mapping(DEFAULT_LIMITS).rules
        if usual.key not in asked or asked[usual.key].asks_less(usual)
    ]
