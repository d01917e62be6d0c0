"""Proposals and what becomes of them: accepted, or rejected by which rule.

A proposal is one value per parameter of the study.  `Proposer.judge` builds its
architecture as plain data, fills it where `space.fill` asks for that, and asks the
checker; nothing is trained and nothing is stored.  Optuna is not known here.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from constraints import Limits, Violation, violations
from search.config.candidate import Candidate
from search.config.sections import StudyConfig
from search.errors import LimitsError
from search.networks.architecture import Architecture, ArchitectureError
from search.networks.network import Network
from search.proposals.filling import Choices, Filler

Input = tuple[int, int, int]

# What rejects choices that mean no network: a C4 of no units and no head, say.
NO_NETWORK = "no_network"


class InfeasibleError(LimitsError):
    """No candidate was accepted within the budget of proposals."""

    def __init__(self, acceptance: Acceptance, message: str = "") -> None:
        super().__init__(
            message
            or f"no candidate was accepted in {acceptance.proposed:,} proposals; "
            f"{acceptance.summary()}; widen [space] or relax [limits]"
        )


class ExhaustedError(InfeasibleError):
    """Each legal candidate of a finite space has its trial, or each that proposals find."""

    def __init__(self, acceptance: Acceptance, found: str = "each legal one") -> None:
        super().__init__(
            acceptance,
            f"no candidate is left: {found} has its trial; widen [space] or relax [limits]",
        )


class RejectedError(LimitsError):
    """A candidate that somebody asks for breaks a rule."""


@dataclass(frozen=True)
class Proposal:
    """Choices as they would be trained, the network they mean (None where they mean none),
    and the rules they break."""

    choices: Choices
    architecture: Network | None
    violations: tuple[Violation, ...]

    @property
    def accepted(self) -> bool:
        return not self.violations

    @property
    def excess(self) -> float:
        """How far from legal: the sum over the broken rules, 0 where none is."""
        return sum(violation.excess for violation in self.violations)


@dataclass
class Acceptance:
    """A tally of proposals.

    A proposal that breaks several rules counts under each of them in `rejected`, so those
    may add up to more than were rejected.  `closest` is the nearest miss.
    """

    proposed: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    closest: Proposal | None = None

    @property
    def share(self) -> float:
        """Accepted per proposed, 0 where nothing was proposed."""
        return self.accepted / self.proposed if self.proposed else 0.0

    def add(self, proposal: Proposal) -> None:
        self.proposed += 1
        if proposal.accepted:
            self.accepted += 1
            return
        self.rejected.update(violation.rule for violation in proposal.violations)
        if self.closest is None or proposal.excess < self.closest.excess:
            self.closest = proposal

    def summary(self) -> str:
        """One line: which rule rejects how much, and the closest miss."""
        if not self.rejected:
            return "nothing was rejected"
        rules = ", ".join(
            f"{rule} rejects {count / self.proposed:.1%}"
            for rule, count in self.rejected.most_common()
        )
        return f"{rules}; {self.miss}" if self.closest else rules

    @property
    def miss(self) -> str:
        """What the closest miss breaks, nothing where there is none."""
        if not self.closest:
            return ""
        reasons = "; ".join(violation.message for violation in self.closest.violations)
        network = self.closest.architecture
        return f"closest miss: {f'architecture {network.hash}: ' if network else ''}{reasons}"

    def to_json(self) -> dict[str, Any]:
        closest = self.closest and {
            "choices": self.closest.choices,
            "architecture": self.closest.architecture and self.closest.architecture.to_json(),
            "violations": [violation.to_json() for violation in self.closest.violations],
        }
        return {
            "proposed": self.proposed,
            "accepted": self.accepted,
            "rejected": dict(self.rejected.most_common()),
            "closest": closest,
        }


class Proposer:
    """Draws and judges proposals for the networks of one study.

    `input` is (channels, height, width) of its images, `classes` their number.
    """

    def __init__(self, config: StudyConfig, input: Input, classes: int) -> None:
        self.config = config
        self.domains = config.parameters
        self._input = input
        self._classes = classes
        self._limits = config.rules
        # Rules that scaling the widths cannot mend are asked before the widths are filled.
        self._width_free = Limits(tuple(rule for rule in config.rules.rules if not rule.of_widths))
        self._filler = Filler(config.space.fill, config) if config.space.fill else None

    def complete(self, partial: Mapping[str, Any], rng: random.Random) -> Choices:
        """`partial` with a uniform, independent value for each parameter that it lacks."""
        return {
            name: partial[name] if name in partial else domain.sample(rng)
            for name, domain in self.domains.items()
        }

    def judge(self, choices: Choices, *, fill: bool = True) -> Proposal:
        """The proposal that `choices` make; `fill` False takes the widths as they are."""
        try:
            return self._judge(choices, fill)
        except ArchitectureError as error:
            return Proposal(choices, None, (Violation(NO_NETWORK, None, 0, str(error), math.inf),))

    def _judge(self, choices: Choices, fill: bool) -> Proposal:
        architecture = self._build(choices)
        if self._filler and fill:
            broken = violations(architecture, self._width_free)
            if broken:
                return Proposal(choices, architecture, broken)
            choices, missed = self._filler.fill(choices, self._build)
            architecture = self._build(choices)
            if missed:
                return Proposal(choices, architecture, (missed,))
        return Proposal(choices, architecture, violations(architecture, self._limits))

    def candidate(self, choices: Choices) -> Candidate:
        """What the choices of an accepted proposal train."""
        return self.config.candidate(choices, input=self._input, classes=self._classes)

    def _build(self, choices: Choices) -> Architecture:
        return self.config.space.architecture(choices, input=self._input, classes=self._classes)


def propose(
    config: StudyConfig, input: Input, classes: int, rng: random.Random
) -> Iterator[Proposal]:
    """Endless proposals, uniform over the space of the study, each with its verdict."""
    proposer = Proposer(config, input, classes)
    while True:
        yield proposer.judge(proposer.complete({}, rng))


def estimate(
    config: StudyConfig, input: Input, classes: int, n: int, rng: random.Random
) -> Acceptance:
    """The tally of `n` uniform proposals."""
    acceptance = Acceptance()
    for proposal, _ in zip(propose(config, input, classes, rng), range(n), strict=False):
        acceptance.add(proposal)
    return acceptance
