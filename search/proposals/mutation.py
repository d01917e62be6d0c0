"""Networks beside a given one, which a study begins with."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import optuna

from search.proposals.filling import Choices
from search.proposals.judged import JudgedProposals
from search.proposals.proposer import InfeasibleError, Proposer

MUTATIONS = 2
"""Of a given network, tried beside it: few, since they help little where it is good, and cost a
study where it is not (docs/results/search.md)."""

_TRIES = 500


def begin(
    study: optuna.Study, start: Mapping[str, Any], proposer: Proposer, rng: random.Random
) -> int:
    """Queues `start` and its mutations, to be trained before others; answers with the number of
    these."""
    beside = mutations(start, proposer, rng)
    for choices in (start, *beside):
        study.enqueue_trial(dict(choices), skip_if_exists=True)
    return len(beside)


def mutations(start: Mapping[str, Any], proposer: Proposer, rng: random.Random) -> list[Choices]:
    """Choices of up to `MUTATIONS` legal networks that differ from that of `start`, and from each
    other, in few of its choices; they name what `start` names, and leave open what it leaves."""
    draws = JudgedProposals(proposer, rng, {}, lambda _: False)
    known = {proposer.candidate(proposer.complete(start, rng)).architecture}
    found: list[Choices] = []
    with suppress(InfeasibleError):
        for _ in range(_TRIES):
            choices = draws.neighbor(start)
            if choices is None or draws.candidate(choices).architecture in known:
                continue
            known.add(draws.candidate(choices).architecture)
            found.append({name: choices[name] for name in start})
            if len(found) == MUTATIONS:
                break
    return found
