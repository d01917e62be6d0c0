"""`sample` and `check`: networks judged, none trained."""

from __future__ import annotations

import random
from collections.abc import Sequence

import constraints
from constraints import OFF, Limits
from search.analysis import advice
from search.analysis.graph import Graph
from search.commands.answers import note_lacking, print_json
from search.config.files import DEFAULTS, overridden
from search.config.sections import DEFAULT_LIMITS
from search.data import datasets
from search.display import tables, terminal, wording
from search.networks.architecture import Architecture
from search.networks.network import Network
from search.proposals import remedy
from search.proposals.hints import hints
from search.proposals.proposer import Acceptance, propose
from search.targets import input_shapes, resolve, study_of, with_input


def sample(
    source: str, n: int, overrides: Sequence[str], storage: str | None, *, as_json: bool
) -> int:
    """Proposes `n` candidates and trains none."""
    config = study_of(source, overrides, storage).config
    shape, classes = datasets.describe(config.data)
    note_lacking(config)
    acceptance, accepted = Acceptance(), []
    draw = propose(config, shape, classes, random.Random(config.study.seed))
    for proposal, _ in zip(draw, range(n), strict=False):
        acceptance.add(proposal)
        if proposal.accepted:
            accepted.append(config.candidate(proposal.choices, input=shape, classes=classes))
    if as_json:
        networks = [candidate.architecture.to_json() for candidate in accepted]
        print_json({**acceptance.to_json(), "candidates": networks})
    else:
        terminal.show(terminal.render_sample(acceptance, accepted))
    return 0 if accepted else 1


def check(
    target: str,
    shape: str | None,
    limits: str | None,
    overrides: Sequence[str],
    storage: str | None,
    *,
    form: str,
) -> int:
    """Judges one network by the rules; `form` is text, json, markdown or csv."""
    rules, network = resolve(target, input_shapes(shape), storage)
    if shape is not None and isinstance(network, Network):
        network = with_input(network, *input_shapes(shape))
    if limits is not None:
        rules = study_of(limits, overrides, storage).config.rules
    elif overrides:
        own = {**dict.fromkeys(DEFAULT_LIMITS, OFF), **rules.to_mapping()}
        came_with = DEFAULTS.model_copy(update={"limits": own})
        rules = overridden(came_with, overrides).rules
    verdict = constraints.check(network, rules)
    rows = tables.layers(verdict.analysis.layers)
    if form == "json":
        print_json(verdict.to_json())
    elif form == "markdown":
        print(tables.markdown(tables.LAYERS, rows, left=3), f"{wording.LEGEND}.", sep="\n\n")
    elif form == "csv":
        print(tables.comma_separated(tables.LAYERS, rows))
    else:
        lines = _advice(network, verdict, rules)
        terminal.show(terminal.render_check(verdict, rules, name=target, advice=lines))
    return 0 if verdict.accepted else 1


def _advice(network: Network | Graph, verdict: constraints.Verdict, rules: Limits) -> list[str]:
    lines = list(advice.advice(verdict.analysis))
    if isinstance(network, Architecture):
        nearest = remedy.remedy(network, rules)
        return [f"the nearest legal network: {nearest}", *lines] if nearest else lines
    return [*hints(network, verdict, rules), *lines] if isinstance(network, Graph) else lines
