"""The proposals of one trial, judged and counted until one is accepted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from constraints import Violation
from search.config.candidate import Candidate
from search.domains import Scalar
from search.proposals.filling import Choices
from search.proposals.proposer import (
    Acceptance,
    ExhaustedError,
    InfeasibleError,
    Proposal,
    Proposer,
    RejectedError,
)

_DUPLICATE = Violation(
    "duplicate", None, 0, "an earlier trial has the same network and hyperparameters", math.inf
)


class JudgedProposals:
    """Makes proposals for one trial, judges and counts them.

    `fixed` are values that the trial was queued with; they overrule what is proposed, and
    the widths are then not filled.  `taken` knows the hashes of candidates in use.
    """

    # How often the parameters that a sampler leaves open are drawn for one proposal.
    _COMPLETIONS = 10
    _MUTATIONS = 1_000

    def __init__(
        self,
        proposer: Proposer,
        rng: random.Random,
        fixed: Mapping[str, Any],
        taken: Callable[[str], bool],
    ) -> None:
        self.tally = Acceptance()
        self._rng = rng
        self._proposer = proposer
        self._free = [
            name
            for name, domain in proposer.domains.items()
            if name not in fixed and domain.size > 1
        ]
        self._points = math.prod(domain.size for domain in proposer.domains.values())
        self._fixed = fixed
        self._taken = taken
        self._in_a_row = Acceptance()
        self._rejected: set[tuple[Scalar, ...]] = set()  # points of the space, likewise
        self._survivors: dict[tuple[Scalar, ...], Candidate] = {}

    def uniform(self) -> Choices:
        """The next survivor of uniform proposals."""
        while True:
            survivor = self.judge({})
            if survivor is not None:
                return survivor

    def complete(self, partial: Mapping[str, Any]) -> Choices | None:
        """A survivor with the values of `partial`, if the first few draws of the others
        find one."""
        lacks = any(name not in partial for name in self._free)
        for _ in range(self._COMPLETIONS if lacks else 1):
            survivor = self.judge(partial)
            if survivor is not None:
                return survivor
        return None

    def judge(self, partial: Mapping[str, Any]) -> Choices | None:
        """The survivor that `partial`, completed by uniform draws, becomes, if it does.

        Raises:
            ExhaustedError: this was the last point of the space, or one rejection in a row too
                many, and some have their trials.
            InfeasibleError: this was one rejection in a row too many, and none has.
            RejectedError: likewise, where it is for the values that the trial was queued with.
        """
        proposal = self._propose(partial)
        return proposal.choices if proposal.accepted else None

    def mend(self, start: Mapping[str, Any]) -> Choices:
        """A survivor near `start`: its mutations, of one parameter first and of more and
        more, each accepted as the new start where it is nearer to legal."""
        best = self._propose(start)
        for step in range(self._MUTATIONS):
            if best.accepted:
                return best.choices
            count = 1 + step * len(self._free) // self._MUTATIONS
            proposal = self._propose(self._without(best.choices, count))
            if proposal.excess < best.excess:
                best = proposal
        return self.uniform()

    def neighbor(self, parent: Mapping[str, Any]) -> Choices | None:
        """The survivor that one to three mutations of `parent` make, if they do."""
        return self.judge(self._without(parent, self._rng.randint(1, 3)))

    def _without(self, parent: Mapping[str, Any], count: int) -> Choices:
        """`parent` less `count` of its values, which are drawn anew."""
        dropped = set(self._rng.sample(self._free, min(count, len(self._free))))
        return {name: value for name, value in parent.items() if name not in dropped}

    def candidate(self, choices: Choices) -> Candidate:
        return self._survivors[tuple(choices.values())]

    def reject_duplicate(self, choices: Choices) -> None:
        """Takes back a survivor that another worker claimed meanwhile."""
        candidate = self._survivors.pop(tuple(choices.values()))
        self._count(Proposal(choices, candidate.architecture, (_DUPLICATE,)))

    def _propose(self, partial: Mapping[str, Any]) -> Proposal:
        choices = self._proposer.complete({**partial, **self._fixed}, self._rng)
        known = self._survivors.get(tuple(choices.values()))
        if known:
            return Proposal(choices, known.architecture, ())
        proposal = self._proposer.judge(choices, fill=not self._fixed)
        if proposal.accepted:
            proposal = self._unless_taken(proposal)
        self._count(proposal)
        if not proposal.accepted:
            self._require_more(choices)
        return proposal

    def _unless_taken(self, proposal: Proposal) -> Proposal:
        candidate = self._proposer.candidate(proposal.choices)
        if self._taken(candidate.hash):
            return replace(proposal, violations=(_DUPLICATE,))
        self._survivors[tuple(proposal.choices.values())] = candidate
        return proposal

    def _count(self, proposal: Proposal) -> None:
        self.tally.add(proposal)
        if proposal.accepted:
            self._in_a_row = Acceptance()
            self._rejected = set()
            return
        self._in_a_row.add(proposal)
        if self._in_a_row.proposed < self._proposer.config.study.proposals:
            return
        if self._fixed:  # of others there may be enough
            queued = ", ".join(f"{name}={value!r}" for name, value in self._fixed.items())
            raise RejectedError(
                f"no candidate with {queued} was accepted in {self._in_a_row.proposed:,} "
                f"proposals; {self._in_a_row.summary()}"
            )
        if _DUPLICATE.rule in self._in_a_row.rejected:
            drawn = f"{self._in_a_row.proposed:,} proposals"
            raise ExhaustedError(self._in_a_row, f"each legal one among {drawn} in a row")
        raise InfeasibleError(self._in_a_row)

    def _require_more(self, choices: Choices) -> None:
        """Notes a rejected point of a small space, unless it was the last."""
        if self._points > self._proposer.config.study.proposals:
            return
        self._rejected.add(tuple(choices.values()))
        if len(self._rejected) == self._points and _DUPLICATE.rule in self._in_a_row.rejected:
            raise ExhaustedError(self.tally)
