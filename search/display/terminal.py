"""What the terminal shows: results on stdout, progress and notes on stderr.

Colors, `NO_COLOR` and the width of the terminal are rich's business; where there is no
terminal, `LiveView` writes plain timestamped lines instead.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
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
from search.analysis.facts import Facts
from search.config.candidate import Candidate
from search.display import tables, wording
from search.networks.architecture import Architecture
from search.networks.glance import glance
from search.storage.summary import LEADERS, Progress, Summary, summarize

if TYPE_CHECKING:
    from search.proposals.proposer import Acceptance

WIDTH = 100  # a longer line is hard to follow; also the width of pipes and files
BINS = 8
LISTED = 10
SPARKS = "▁▂▃▄▅▆▇█"


def console(stream: TextIO) -> Console:
    """A console on stdout or stderr; characters that its encoding lacks become `?`."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    result = Console(file=stream, highlight=False, markup=False)
    result.width = min(result.width, WIDTH) if result.is_terminal else WIDTH
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
    return console(sys.stderr).input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def render_check(
    verdict: Verdict, limits: Limits, *, name: str = "", advice: Sequence[str] = ()
) -> RenderableType:
    """The layers in the columns of the original report, and the verdict per rule in words.

    `limits` are the rules that were asked; `advice` are lines that tell what to change.
    """
    parts: list[RenderableType] = [Text(name, "bold")] if name else []
    parts += [_layers(verdict), *map(Text, wording.memory(verdict.analysis)), ""]
    parts.append(_verdict(verdict, limits))
    parts += [Text(f"note: {line}", "yellow") for line in verdict.analysis.notes]
    if advice:
        parts += ["", Text("What would help", "bold"), *(Text(f"• {line}") for line in advice)]
    return Group(*parts)


def _layers(verdict: Verdict) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_footer=True)
    table.add_column("", style="dim", no_wrap=True)
    table.add_column("op", no_wrap=True)
    for title in wording.GEOMETRY:
        table.add_column(title, justify="right", no_wrap=True)
    total = verdict.analysis.parameters
    largest = max((layer.parameters for layer in verdict.analysis.layers), default=0)
    table.add_column("params", wording.count(total), justify="right", no_wrap=True)
    table.add_column("MACs", wording.count(verdict.analysis.macs), justify="right", no_wrap=True)
    table.add_column("of params", justify="right", no_wrap=True)
    table.add_column("", max_width=16, min_width=3)
    layers = verdict.analysis.layers
    for layer, (block, name, _, *cells) in zip(layers, tables.layers(layers), strict=True):
        share = wording.percent(layer.parameters / max(total, 1), 0)
        bar = Bar(max(largest, 1), 0, layer.parameters, color="cyan")
        table.add_row(block, _in_lines(name), *cells, share, bar)
    return table


def _in_lines(path: str, width: int = 16) -> str:
    """A module's path in lines of about `width`, broken behind its dots alone."""
    lines = [""]
    for part in re.findall(r"[^.]+\.?|\.", path):
        if lines[-1] and len(lines[-1]) + len(part) > width:
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

    def row(label: str, number: int, color: str, style: str = "") -> None:
        share = "" if number == proposed else wording.percent(number / whole, 1)
        bar = Bar(whole, 0, number, color=color)
        table.add_row(Text(label, style), wording.count(number), share, bar)

    row("proposed", proposed, "blue")
    ordered = sorted(rejected.items(), key=lambda item: -item[1])
    for name, number in ordered[:most]:
        row(f"  ✗ {wording.rule(name)}", number, "red", "dim")
    if len(ordered) > most:
        table.add_row(Text(f"  and {wording.plural(len(ordered) - most, 'rule')} more", "dim"))
    row("✓ accepted", accepted, "green")
    return table


def render_histogram(title: str, values: Sequence[int]) -> Table:
    """How often each range of `values` occurs, one bar a range."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(title, justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1, min_width=6)
    table.add_row(Text(title, "bold"))
    bins = min(BINS, max(values) - min(values) + 1)
    # Whole numbers belong to bins whole: edges half way between neighbours.
    edges = np.linspace(min(values) - 0.5, max(values) + 0.5, bins + 1)
    counts = np.histogram(values, bins=edges)[0]
    for number, (low, high) in zip(counts, pairwise(edges), strict=True):
        first, last = int(np.ceil(low)), int(np.ceil(high)) - 1
        label = f"{first:,}" if first == last else f"{first:,} – {last:,}"
        table.add_row(label, str(number), Bar(max(counts), 0, number, color="cyan"))
    return table


def render_sample(acceptance: Acceptance, candidates: Sequence[Candidate]) -> RenderableType:
    """The funnel, the first candidates, and how parameters and receptive fields spread."""
    funnel = render_funnel(acceptance.proposed, acceptance.accepted, acceptance.rejected)
    if not candidates:
        return funnel
    sizes = [_size(candidate.architecture) for candidate in candidates]
    fields, parameters, _ = zip(*sizes, strict=True)
    return Group(
        funnel,
        "",
        _candidates(candidates[:LISTED], sizes),
        "",
        render_histogram("receptive field", fields),
        "",
        render_histogram("parameters", parameters),
    )


def _size(architecture: Architecture) -> tuple[int, int, int]:
    """Receptive field (smaller axis), parameters, MACs."""
    facts = Facts(architecture)
    field = min(value for value in facts.receptive_field if value is not None)
    return field, facts.parameters, facts.macs


def _candidates(candidates: Sequence[Candidate], sizes: Sequence[tuple[int, int, int]]) -> Table:
    table = _table("Candidate", *wording.SIZES)
    table.add_column("architecture", overflow="fold")
    for candidate, size in zip(candidates, sizes, strict=False):
        numbers = wording.sizes(*size)
        table.add_row(candidate.hash[:8], *numbers, glance(candidate.architecture))
    if len(sizes) > len(candidates):
        table.add_row(Text(f"and {len(sizes) - len(candidates):,} more", "dim"))
    return table


def render_status(study: Study) -> RenderableType:
    """Where a study stands, and who works on it."""
    summary = summarize(study)
    workers = [f"{t.worker} ({t.device or 'no device yet'})" for t in summary.running if t.worker]
    parts: list[RenderableType] = [status_view(summary, most=8)]
    parts += [Text(f"worker {line}", "dim") for line in workers]
    if "largest class" in study.user_attrs.get("data", {}):
        parts.append(Text(wording.guessing(study.user_attrs["data"]), "dim"))
    if summary.left is not None:
        parts.append(Text(f"{wording.duration(summary.left)} of the budget left", "dim"))
    return Group(*parts)


def render_studies(summaries: Sequence[Summary]) -> Table:
    """One line a study."""
    table = _table("Study", *tables.STUDIES[1:])
    for summary in summaries:
        table.add_row(*tables.study(summary))
    return table


def status_json(study: Study) -> dict[str, Any]:
    """What `status --json` prints."""
    return summarize(study).to_json()


def status_view(summary: Summary, most: int = 6, running: int = 100) -> Group:
    """A study at a glance: its `most` best trials and at most `running` that run."""
    parts: list[RenderableType] = [_header(summary), ""]
    parts.append(
        render_funnel(summary.proposed, summary.accepted, summary.rejected, most)
        if summary.proposed
        else Text("nothing proposed yet", "dim")
    )
    if summary.running:
        parts += ["", _running(summary.running, running)]
    if summary.best:
        parts += ["", _leaders(summary.best[:LEADERS])]
    if summary.config.study.target is not None:
        parts += ["", _road(summary, summary.config.study.target)]
    if summary.standing.begun:
        parts += ["", _finalists(summary)]
    return Group(*parts)


def _header(summary: Summary) -> Table:
    states, budget = summary.states, summary.config.study.trials
    words = [f"{summary.finished:,} of {wording.plural(budget, 'trial')}"]
    words += [f"{states[s]:,} {w}" for s, w in _STATE_WORDS.items() if states[s]]
    # Never wraps: the live view counts on its height.
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_row(Text(summary.name, "bold"), Text(" · ".join(words), "dim"))
    return line


_STATE_WORDS = {"running": "running", "pruned": "pruned", "fail": "failed", "waiting": "waiting"}


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(Text(title, "bold not dim"), no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _running(trials: Sequence[Progress], most: int) -> Table:
    table = _table("Running", "", "epoch", "accuracy", "ETA", *wording.SIZES)
    for trial in trials[:most]:
        epochs = trial.epochs or 0
        table.add_row(
            f"#{trial.number}",
            ProgressBar(total=max(epochs, 1), completed=trial.epoch, width=12),
            f"{trial.epoch}/{epochs or '?'}",
            wording.percent(trial.accuracy),
            wording.duration(trial.eta),
            *wording.sizes(*trial.sizes),
        )
    if len(trials) > most:
        table.add_row(Text(f"and {len(trials) - most:,} more", "dim"))
    return table


def _leaders(trials: Sequence[Progress]) -> Table:
    table = _table("Best", *tables.LEADERS[1:])
    for trial in trials:
        table.add_row(*tables.leader(trial))
    return table


def _finalists(summary: Summary) -> RenderableType:
    title, *columns = wording.FINALIST
    table = _table(title.capitalize(), *columns)
    for each in summary.standing.finalists:
        table.add_row(*wording.finalist(each))
    words = wording.leader(summary.standing, summary.finished)
    return Group(table, Text(words)) if words else table


def _road(summary: Summary, target: float) -> Table:
    best = summary.road[-1] if summary.road else 0.0
    if summary.met:
        words = Text(f"{wording.percent(best)}: met", "green")
    elif summary.road:
        words = Text(f"{wording.percent(best)}, {100 * (target - best):.2f} points to go")
    else:
        words = Text("no trial completed yet", "dim")
    table = Table.grid(padding=(0, 2, 0, 0))
    bar = ProgressBar(total=target, completed=min(best, target), width=20)
    table.add_row(
        Text(f"Target {wording.percent(target)}", "bold"), bar, words, _sparks(summary.road[-24:])
    )
    return table


def _sparks(values: Sequence[float]) -> Text:
    if len(values) < 2 or max(values) == min(values):
        return Text()
    low, span = min(values), max(values) - min(values)
    steps = len(SPARKS) - 1
    return Text("".join(SPARKS[round(steps * (v - low) / span)] for v in values), "cyan")
