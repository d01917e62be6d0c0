"""What the terminal shows: results on stdout, progress and notes on stderr.

Colors, `NO_COLOR` and the width of the terminal are rich's business; where there is no
terminal, `LiveView` writes plain timestamped lines instead.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from optuna import Study
from rich import box
from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from constraints import Limits, Verdict
from search.analysis.table import facts
from search.config.candidate import Candidate
from search.display import encodings, tables, wording
from search.display.apart import apart
from search.display.fitting import Fitting
from search.networks.glance import LEGEND, glance
from search.networks.network import Network
from search.storage.studies import images_of
from search.storage.summary import LEADERS, Summary, summarize

if TYPE_CHECKING:
    from search.proposals.proposer import Acceptance

WIDTH = 100  # a longer line is hard to follow; also the width of pipes and files
PATH_WIDTH = 16  # of a module's path in a table
BINS = 8
LISTED = 10
SPARKS = "▁▂▃▄▅▆▇█"


def console(stream: TextIO) -> Console:
    """A console on stdout or stderr; characters that its encoding lacks become similar ones.

    It is as wide as the terminal, or as `COLUMNS` says, where it ends in a pipe too.  Some set
    that to 0 where they do not know.
    """
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors=encodings.ERRORS)
    result = Console(file=stream, highlight=False, markup=False, emoji=False)
    known = result.width and (result.is_terminal or "COLUMNS" in os.environ)
    result.width = min(result.width, WIDTH) if known else WIDTH
    return result


def show(*renderables: RenderableType) -> None:
    """Prints results on stdout."""
    output = console(sys.stdout)
    for renderable in renderables:
        output.print(renderable)


def note(line: str) -> None:
    """Prints one line on stderr."""
    console(sys.stderr).print(line, soft_wrap=True)


def confirmed(question: str) -> bool:
    """Whether the person at the terminal says yes; nobody there says no."""
    if not sys.stdin.isatty():
        return False
    try:  # in a str, [y/N] would be markup
        answer = console(sys.stderr).input(Text(f"{question} [y/N] "))
    except EOFError:  # Ctrl-D
        return False
    return answer.strip().lower() in ("y", "yes")


def render_check(
    verdict: Verdict, limits: Limits, *, name: str = "", advice: Sequence[str] = ()
) -> RenderableType:
    """The layers in the columns of the original report, and the verdict per rule in words.

    `limits` are the rules that were asked; `advice` are lines that tell what to change.
    """
    parts: list[RenderableType] = [Text(name, "bold")] if name else []
    parts += [_layers(verdict), Text(f"{wording.LEGEND}.", "dim"), ""]
    parts += [*map(Text, wording.memory(verdict.analysis)), ""]
    parts.append(_verdict(verdict, limits))
    parts += [Text(f"note: {line}", "yellow") for line in verdict.analysis.notes]
    if advice:
        title = "Notes" if verdict.accepted else "What would help"
        parts += ["", Text(title, "bold"), *(Text(f"• {line}") for line in advice)]
    return Group(*parts)


# What a narrow terminal does without, the first to go first: what goes into a layer comes out
# of one above it.
_SPARE = ("", "of params", "Jin", "Nin", "Rin", "p", "Jout", "s", "d", "k", "Nout", "Rout")


def _layers(verdict: Verdict) -> Fitting:
    return Fitting(partial(_layers_without, verdict), _SPARE, told=True)


def _layers_without(verdict: Verdict, gone: Sequence[str]) -> Table:
    analysis = verdict.analysis
    layers, total = analysis.layers, analysis.parameters
    titles = [title for title in (*wording.GEOMETRY, "params", "MACs") if title not in gone]
    totals = {"params": wording.count(total), "MACs": wording.count(analysis.macs)}
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_footer=True)
    table.add_column("", style="dim", no_wrap=True)
    table.add_column("op", no_wrap=True)
    for title in titles:
        table.add_column(title, totals.get(title, ""), justify="right", no_wrap=True)
    if "of params" not in gone:
        table.add_column("of params", justify="right", no_wrap=True)
    if "" not in gone:
        table.add_column("", max_width=16, min_width=3)
    largest = max((layer.parameters for layer in layers), default=0)
    for layer, row in zip(layers, tables.layers(layers), strict=True):
        cells = dict(zip(tables.LAYERS, row, strict=True))
        share = wording.percent(layer.parameters / max(total, 1), 0)
        bar = Bar(max(largest, 1), 0, layer.parameters, color="cyan")
        shown: list[RenderableType] = [cells[title] for title in titles]
        shown += [share] if "of params" not in gone else []
        shown += [bar] if "" not in gone else []
        table.add_row(cells[""], _in_lines(cells["op"]), *shown)
    return table


def _in_lines(path: str) -> str:
    """A module's path in lines of about `PATH_WIDTH`, broken behind its dots alone."""
    lines = [""]
    for part in re.findall(r"[^.]+\.?|\.", path):
        if lines[-1] and len(lines[-1]) + len(part) > PATH_WIDTH:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _verdict(verdict: Verdict, limits: Limits) -> Group:
    broken = {violation.rule: violation for violation in verdict.violations}
    lines = []
    for rule in limits.rules:
        if rule.key in broken:
            lines.append(Text(f"✗ {rule.words}: {broken[rule.key].message}", "red"))
        else:
            found = wording.count(rule.found(verdict.analysis))
            lines.append(Text.assemble(("✓ ", "green"), f"{rule}: {found}"))
    kept = Text("accepted: every rule holds", "bold green")
    lost = Text(f"rejected: {wording.plural(len(broken), 'rule')} broken", "bold red")
    return Group(*lines, "", kept if verdict.accepted else lost)


def render_funnel(
    proposed: int, accepted: int, rejected: Mapping[str, int], most: int = 6
) -> Table:
    """Proposals, what they broke (a proposal may break several rules), and the survivors."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1, min_width=6)
    whole = max(proposed, 1)

    def row(label: str, number: int, color: str, style: str = "", told: bool = True) -> None:
        share = wording.percent(number / whole, 1) if told else ""
        bar = Bar(whole, 0, number, color=color)
        table.add_row(Text(label, style), wording.count(number), share, bar)

    row("proposed", proposed, "blue", told=False)
    ordered = sorted(rejected.items(), key=lambda item: -item[1])
    for name, number in ordered[:most]:
        row(f"  ✗ {wording.rule(name)}", number, "red", "dim")
    if len(ordered) > most:
        table.add_row(Text(f"  and {wording.plural(len(ordered) - most, 'rule')} more", "dim"))
    row("✓ accepted", accepted, "green")
    return table


def render_histogram(title: str, values: Sequence[int]) -> Table:
    """How often `values` occur: one bar a value where there are few, else one a range."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(title, justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1, min_width=6)
    table.add_row(Text(title, "bold"))
    counts = _counted(values)
    for label, number in counts.items():
        table.add_row(
            label, wording.count(number), Bar(max(counts.values()), 0, number, color="cyan")
        )
    return table


def _counted(values: Sequence[int]) -> dict[str, int]:
    """How often each value occurs where there are few, else each of `BINS` ranges."""
    counted = Counter(values)
    if len(counted) <= BINS:
        return {f"{value:,}": counted[value] for value in sorted(counted)}
    # Whole numbers belong to bins whole: edges half way between neighbors.
    edges = np.linspace(min(values) - 0.5, max(values) + 0.5, BINS + 1)
    ends = [int(np.ceil(edge)) for edge in edges]
    labels = [f"{first:,} – {after - 1:,}" for first, after in pairwise(ends)]
    return dict(zip(labels, map(int, np.histogram(values, bins=edges)[0]), strict=True))


def render_sample(acceptance: Acceptance, candidates: Sequence[Candidate]) -> RenderableType:
    """The funnel, the first different candidates, and how parameters and fields spread; the
    closest miss where all were rejected."""
    funnel = render_funnel(acceptance.proposed, acceptance.accepted, acceptance.rejected)
    if not candidates:
        return Group(funnel, "", Text(acceptance.miss))
    sizes = [_size(candidate.architecture) for candidate in candidates]
    fields, parameters, _ = zip(*sizes, strict=True)
    different = {candidate.hash: candidate for candidate in candidates}
    return Group(
        funnel,
        "",
        _candidates([*different.values()]),
        Text(f"{LEGEND}.", "dim"),
        "",
        render_histogram("receptive field", fields),
        "",
        render_histogram("parameters", parameters),
    )


def _size(network: Network) -> tuple[int, int, int]:
    """Receptive field (smaller axis), parameters, MACs."""
    found = facts(network)
    return found.smaller_field or 0, found.parameters, found.macs


def _candidates(different: Sequence[Candidate]) -> Table:
    table = _table("Candidate", *wording.SIZES)
    table.add_column("architecture", overflow="fold")
    listed = different[:LISTED]
    for candidate, difference in zip(listed, apart(listed), strict=True):
        network = Text(glance(candidate.architecture))
        if difference:
            network.append(f"\n{difference}", "dim")
        sizes = wording.sizes(*_size(candidate.architecture))
        table.add_row(candidate.hash[:8], *sizes, network)
    if len(different) > len(listed):
        table.add_row(Text(f"and {len(different) - len(listed):,} more", "dim"))
    return table


def render_status(study: Study) -> RenderableType:
    """Where a study stands, and who works on it."""
    summary = summarize(study)
    workers = [f"{t.worker} ({t.device or 'no device yet'})" for t in summary.running if t.worker]
    parts: list[RenderableType] = [status_view(summary, most=8)]
    parts += [Text(f"worker {line}", "dim") for line in workers]
    images = images_of(study)
    if "largest class" in images:
        parts.append(Text(wording.guessing(images), "dim"))
    if summary.left is not None:
        parts.append(Text(f"{wording.duration(summary.left)} of the budget left", "dim"))
    return Group(*parts)


def render_studies(summaries: Sequence[Summary]) -> Fitting:
    """One line a study."""
    titles = ("Study", *tables.STUDIES[1:])
    rows = list(map(tables.study, summaries))
    return _fitting(titles, rows, ("accepted", "time", "MACs", "cost", "RF", "target"), told=True)


def status_json(study: Study) -> dict[str, Any]:
    """What `status --json` prints."""
    return summarize(study).to_json()


def status_view(
    summary: Summary, most: int = 6, running: int = 100, leaders: int = LEADERS
) -> Group:
    """A study at a glance: at most so many broken rules, trials that run, and best trials."""
    parts: list[RenderableType] = [_header(summary), ""]
    parts.append(
        render_funnel(summary.proposed, summary.accepted, summary.rejected, most)
        if summary.proposed
        else Text("nothing proposed yet", "dim")
    )
    if summary.running:
        parts += ["", _running(summary, running)]
    if summary.best:
        parts += ["", _leaders(summary, leaders)]
    if summary.config.study.target is not None:
        parts += ["", _road(summary, summary.config.study.target)]
    if summary.standing.begun:
        parts += ["", _finalists(summary)]
    return Group(*parts)


def _header(summary: Summary) -> Text:
    states, budget = summary.states, summary.config.study.trials
    words = [wording.of_budget(summary.trained, budget)]
    words += [f"{states[s]:,} {w}" for s, w in _STATE_WORDS.items() if states[s]]
    words += wording.others(summary)
    return Text.assemble((summary.name, "bold"), "  ", (" · ".join(words), "dim"))


_STATE_WORDS = {"running": "running", "pruned": "pruned", "fail": "failed", "waiting": "waiting"}


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(Text(title, "bold not dim"), no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _fitting(
    titles: Sequence[str],
    rows: Sequence[Sequence[RenderableType]],
    spare: Sequence[str],
    *,
    told: bool = False,
) -> Fitting:
    """A table under `titles`, the first of which is its own."""

    def make(gone: Sequence[str]) -> Table:
        kept = [index for index, title in enumerate(titles) if title not in gone]
        table = _table(*(titles[index] for index in kept))
        name = table.columns[0]  # which takes more lines where nothing else can go
        name.no_wrap, name.overflow = len(gone) < len(spare), "fold"
        for row in rows:
            table.add_row(*(row[index] for index in kept))
        return table

    return Fitting(make, spare, told)


def _running(summary: Summary, most: int) -> RenderableType:
    trials, measure = summary.running, summary.config.study.measure
    titles = ("Running", "", "epoch", measure, "ETA", *wording.SIZES, *wording.MOMENT)
    rows = [
        (
            f"#{trial.number}",
            ProgressBar(total=max(trial.epochs or 0, 1), completed=trial.passed, width=12),
            f"{trial.epoch}/{trial.epochs or '?'}",
            wording.percent(trial.accuracy),
            wording.duration(trial.eta),
            *wording.sizes(*trial.sizes),
            *wording.moment(trial.moment),
        )
        for trial in trials[:most]
    ]
    table = _fitting(titles, rows, ("MACs", "parameters", "RF", "", *reversed(wording.MOMENT)))
    if len(trials) <= most:
        return table
    return Group(table, Text(f"and {len(trials) - most:,} more", "dim"))


def _leaders(summary: Summary, most: int) -> Fitting:
    titles = ("Best", *tables.leader_titles(summary.config.study)[1:])
    rows = list(map(tables.leader, summary.best[:most]))
    return _fitting(titles, rows, ("cost", "time", "MACs"))


def _finalists(summary: Summary) -> RenderableType:
    title, *columns = wording.FINALIST
    rows = list(map(wording.finalist, summary.standing.finalists))
    table = _fitting((title.capitalize(), *columns), rows, ("measured once", "trainings"))
    words = wording.leader(summary.standing, summary.compared)
    return Group(table, Text(words)) if words else table


def _road(summary: Summary, target: float) -> Fitting:
    best = summary.road[-1] if summary.road else 0.0
    style = "green" if summary.met else "" if summary.road else "dim"
    cells: dict[str, RenderableType] = {
        "target": Text(f"Target {wording.percent(target)}", "bold"),
        "bar": ProgressBar(total=target, completed=min(best, target), width=20),
        "words": Text(wording.road(summary), style),
        "sparks": _sparks(summary.road[-24:]),
    }
    return Fitting(partial(_in_a_row, cells), ("sparks", "bar"))


def _in_a_row(cells: Mapping[str, RenderableType], gone: Sequence[str]) -> Table:
    kept = [cell for name, cell in cells.items() if name not in gone]
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in kept:
        table.add_column(no_wrap=True)
    table.add_row(*kept)
    return table


def _sparks(values: Sequence[float]) -> Text:
    if len(values) < 2 or max(values) == min(values):
        return Text()
    low, span = min(values), max(values) - min(values)
    steps = len(SPARKS) - 1
    return Text("".join(SPARKS[round(steps * (v - low) / span)] for v in values), "cyan")
