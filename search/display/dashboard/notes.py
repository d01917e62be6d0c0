"""The Markdown that the dashboard shows beside a study and beside each trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from constraints import Limits, Verdict, check
from search.analysis.table import LayerRow
from search.display import tables, wording
from search.networks.architecture import Architecture
from search.networks.glance import LEGEND, glance
from search.networks.network import Network
from search.storage.summary import Summary

LEADERS = 10
BAR = 24  # characters of a full bar


def study_note(summary: Summary, study_id: int, now: datetime) -> str:
    """Objective, limits, road to the target, leaderboard with links, funnel."""
    return "\n\n".join(
        [
            _objective(summary),
            "## Leaderboard",
            _leaderboard(summary, study_id),
            *_finalists(summary),
            "## From proposals to trials",
            _funnel(summary),
            "## Limits",
            _limits(summary.config.rules),
            f"*Written at {now:%Y-%m-%d %H:%M:%S}.*",
        ]
    )


def trial_note(network: Network, limits: Limits, pictures: Mapping[str, str] | None = None) -> str:
    """Verdict per rule, the network at a glance, `pictures` (addresses by name) in the size
    in which they read, the receptive-field table."""
    verdict = check(network, limits)
    shown = (f"![{name.replace('-', ' ')}]({at})" for name, at in (pictures or {}).items())
    return "\n\n".join(
        [
            "```\n" + glance(network).replace("  ", "\n") + "\n```",
            *([f"*{LEGEND}.*"] if isinstance(network, Architecture) else []),
            "## Verdict",
            _verdict(verdict, limits),
            *shown,
            "## Receptive field, layer by layer",
            _layers(verdict.analysis.layers),
            f"*{wording.LEGEND}.*",
        ]
    )


def _objective(summary: Summary) -> str:
    section = summary.config.study
    goal = ", ".join([section.measure, *section.objectives[1:]])
    finished = ", ".join(
        [
            f"{wording.of_budget(summary.trained, section.trials)} finished",
            *wording.others(summary),
        ]
    )
    if section.target is None:
        return f"Objective: **{goal}** on validation images · {finished}"
    road = wording.road(summary)
    if summary.met:
        road = f"**met**{road.removeprefix('met')}"
    target = wording.percent(section.target)
    return f"Objective: **{goal}** on validation images · target **{target}**: {road} · {finished}"


def _leaderboard(summary: Summary, study_id: int) -> str:
    best = summary.best[:LEADERS]
    if not best:
        return "No trial completed yet."
    address = f"/dashboard/studies/{study_id}/trials?numbers="
    rows = (
        (f"[{name}]({address}{trial.number})", *cells)
        for trial, (name, *cells) in zip(best, map(tables.leader, best), strict=True)
    )
    return _table(tables.leader_titles(summary.config.study), rows)


def _finalists(summary: Summary) -> list[str]:
    if not summary.standing.begun:
        return []
    rows = [wording.finalist(each) for each in summary.standing.finalists]
    words = wording.leader(summary.standing, summary.compared)
    table = _table(wording.FINALIST, rows)
    return ["## Finalists, trained again with fresh seeds", *([words] if words else []), table]


def _funnel(summary: Summary) -> str:
    if not summary.proposed:
        return "Nothing proposed yet."
    stages = {
        **wording.stages(summary.proposed, summary.accepted, summary.rejected),
        "trials": len(summary.own),
        "pruned": summary.states["pruned"],
        "completed": summary.states["complete"],
    }
    rows = (
        (name, wording.count(number), "█" * round(BAR * number / summary.proposed))
        for name, number in stages.items()
    )
    note = (
        "Rejected proposals cost no training; one that breaks several rules counts under each. "
        "A sampler may compare several accepted ones before it makes a trial of one."
    )
    return f"{_table(('', 'count', ' '), rows, left=(0, 2))}\n\n{note}"


def _limits(limits: Limits) -> str:
    return "\n".join(f"- {rule}" for rule in limits.rules)


def _verdict(verdict: Verdict, limits: Limits) -> str:
    broken = {violation.rule: violation.message for violation in verdict.violations}
    rows = (
        (
            "✗" if rule.key in broken else "✓",
            str(rule),
            broken.get(rule.key) or wording.count(rule.found(verdict.analysis)),
        )
        for rule in limits.rules
    )
    return _table(("", "rule", "found"), rows, left=(0, 1))


def _layers(layers: Sequence[LayerRow]) -> str:
    titles, *rows = (
        (block, name, *cells) for block, name, _, *cells in (tables.LAYERS, *tables.layers(layers))
    )
    return _table(titles, rows, left=(0, 1))


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A table; the dashboard draws cells without space between them, so a space is written."""
    rule = (":--" if index in left else "--:" for index in range(len(titles)))
    spaced = [" | &ensp;".join(row) for row in (titles, *rows)]
    lines = [spaced[0], " | ".join(rule), *spaced[1:]]
    return "\n".join(f"| {line} |" for line in lines)
