"""How a notebook shows networks, verdicts, spaces and studies: as HTML tables, and a running
study in one cell that changes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import singledispatch
from html import escape
from typing import Any

from constraints import Limits, Verdict
from search.analysis.table import Analysis, analyze
from search.config.sections import StudyConfig
from search.display import tables, wording
from search.display.rhythm import Rhythm
from search.domains import Choice, Domain
from search.networks.architecture import Architecture
from search.networks.glance import LEGEND, glance
from search.proposals.proposer import Acceptance
from search.storage.summary import Summary
from space import SearchSpace

LEADERS = 10
INTERVAL = 2.0  # seconds between two looks at a running study, at least
BAR = 8  # em of a full bar
_CELL = "text-align:{}; padding:0 .6em; white-space:nowrap"


@singledispatch
def html(shown: object) -> str:
    """The HTML of `shown`.

    Raises:
        TypeError: nothing says how to show it.
    """
    raise TypeError(f"a {type(shown).__name__} has no tables")


@html.register
def _(shown: Architecture) -> str:
    analysis = analyze(shown)
    name = f"<b>{escape(shown.name)}</b><br>" if shown.name else ""
    line = f"<code>{escape(glance(shown))}</code>{_small(LEGEND)}"
    return f"{name}{_facts(analysis)}{line}{_layers(analysis)}"


@html.register
def _(shown: Verdict) -> str:
    broken = [f"✗ {wording.rule(v.rule)}: {v.message}" for v in shown.violations]
    lines = broken or ["✓ accepted: every rule holds"]
    words = "<br>".join(map(escape, lines))
    return f"<b>{words}</b><br>{_facts(shown.analysis)}{_layers(shown.analysis)}"


@html.register
def _(shown: Limits) -> str:
    return _table(("rule",), ([str(rule)] for rule in shown.rules))


@html.register
def _(shown: SearchSpace) -> str:
    return _table(("parameter", "choices"), _choices(shown.parameters.items()), left=2)


@html.register
def _(shown: Acceptance) -> str:
    return _funnel(shown.proposed, shown.accepted, shown.rejected)


@html.register
def _(shown: Summary) -> str:
    funnel = _funnel(shown.proposed, shown.accepted, shown.rejected)
    return _heading(shown) + _leaders(shown) + funnel


@html.register
def _(shown: StudyConfig) -> str:
    """A study that is not in its database yet."""
    parameters = _table(("parameter", "choices"), _choices(shown.parameters.items()), left=2)
    return f"<b>{escape(shown.study.name)}</b>: not launched yet{html(shown.rules)}{parameters}"


@contextmanager
def live(read: Callable[[], Summary]) -> Iterator[Callable[[], None]]:
    """While it lasts, the output of the running cell is the study that `read` summarizes, read
    anew when what it answers is called.  Outside of Jupyter nothing is shown or read."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if not hasattr(shell, "kernel"):
        yield lambda: None
        return
    from IPython.display import DisplayHandle

    make: Any = DisplayHandle  # IPython has no types
    cell, rhythm = make(), Rhythm(pause=INTERVAL, share=10)
    cell.display(read())

    def update() -> None:
        if rhythm.due:
            with rhythm.turn():
                cell.update(read())

    yield update
    cell.update(read())


def _facts(analysis: Analysis) -> str:
    sides = [wording.count(side) for side in analysis.receptive_field]
    field = sides[0] if len(set(sides)) == 1 else "×".join(sides)
    return (
        f"receptive field {field} · {wording.count(analysis.parameters)} parameters · "
        f"{wording.macs(analysis.macs)} MACs<br>"
    )


def _layers(analysis: Analysis) -> str:
    most = max((layer.parameters for layer in analysis.layers), default=0)
    rows: Iterable[Sequence[str | _Bar]] = (
        (*row, _Bar(layer.parameters / max(most, 1)))
        for row, layer in zip(tables.layers(analysis.layers), analysis.layers, strict=True)
    )
    table = _table((*tables.LAYERS, "share of parameters"), rows, left=3)
    return f"{table}{_small(wording.LEGEND)}"


def _small(legend: str) -> str:
    return f'<div style="font-size:.85em; opacity:.7">{escape(legend)}</div>'


def _choices(parameters: Iterable[tuple[str, Domain]]) -> Iterable[Sequence[str | _Bar]]:
    for name, domain in parameters:
        yield name, _words(domain)


def _words(domain: Domain) -> str:
    if isinstance(domain, Choice):
        return ", ".join(map(str, domain.values))
    step = getattr(domain, "step", 1)
    how = " (log)" if getattr(domain, "log", False) else f" by {step}" if step != 1 else ""
    return f"{domain.low:g} to {domain.high:g}{how}"


def _heading(summary: Summary) -> str:
    section = summary.config.study
    trials = f"{wording.of_budget(summary.trained, section.trials)} finished"
    lines = [f"<b>{escape(summary.name)}</b>: {trials}"]
    if section.target is not None:
        lines.append(f"target {wording.percent(section.target)}: {wording.road(summary)}")
    return "<br>".join(lines)


def _leaders(summary: Summary) -> str:
    if not summary.best:
        return ""
    rows = map(tables.leader, summary.best[:LEADERS])
    return _table(tables.leader_titles(summary.config.study), rows)


def _funnel(proposed: int, accepted: int, rejected: dict[str, int]) -> str:
    if not proposed:
        return ""
    rows = (
        (name, wording.count(n), wording.percent(n / proposed, 1), _Bar(n / proposed))
        for name, n in wording.stages(proposed, accepted, rejected).items()
    )
    return _table(("", "proposals", "share", ""), rows)


class _Bar(float):
    """A share that is drawn."""


def _table(titles: Sequence[str], rows: Iterable[Sequence[str | _Bar]], left: int = 1) -> str:
    """A table of which the first `left` columns are words and the others numbers."""
    sides = ["left" if index < left else "right" for index in range(len(titles))]
    head = "".join(_cell("th", side, escape(t)) for side, t in zip(sides, titles, strict=True))
    body = "".join(
        f"<tr>{''.join(_content(side, v) for side, v in zip(sides, row, strict=True))}</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _content(side: str, value: str | _Bar) -> str:
    if not isinstance(value, _Bar):
        return _cell("td", side, escape(value))
    width = f"width:{BAR * value:.2f}em; height:.7em; background:#0072b2"
    return _cell("td", "left", f'<div style="{width}"></div>')


def _cell(tag: str, side: str, content: str) -> str:
    return f'<{tag} style="{_CELL.format(side)}">{content}</{tag}>'
