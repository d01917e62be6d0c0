"""What a landscape says, as the page `docs/results/landscape.md`.

    python -m benchmarks.landscape.report [TABLE] >docs/results/landscape.md

TABLE is by default the committed one.  Everything is of the rows that it holds.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.landscape.recipes import ROOT, network, study
from benchmarks.landscape.statistics import Estimate, deviation, difference, spearman
from benchmarks.landscape.table import Row, Table, load
from search.domains import Choice
from search.errors import ConfigError

COMMITTED = ROOT / "docs" / "results" / "landscape.jsonl.gz"
MEANT_SECONDS = 45  # what a short training should take at most
PAGE = Path(__file__).with_name("page.md")
Column = Callable[[Row], float]
FACTS: dict[str, Column] = {
    "parameters": lambda row: row.parameters,
    "MACs": lambda row: row.macs,
    "receptive field": lambda row: row.receptive_field or math.nan,
    "convolutions": lambda row: layers(row),
    "learning rate of SGD": lambda row: float(row.choices["training.learning_rate"]),
    "learning rate of Muon": lambda row: float(row.choices["training.matrix_learning_rate"]),
}


def page(table: Table) -> str:
    """The page, as Markdown."""
    learned = [row for row in table.uniform() if not row.collapsed]
    return PAGE.read_text().format(
        rows=counts(table),
        accuracy=accuracy(table.uniform()),
        guided=accuracy([row for row in table.first() if row.kind == "guided"]),
        noise=noise(table),
        epochs=epochs(learned),
        facts=facts(learned),
        choices=choices(learned),
        whole=whole(table),
    )


def counts(table: Table) -> str:
    """How many rows of which kind, on what."""
    kinds = Counter((row.recipe, row.kind) for row in table.rows)
    made = Counter(
        (row.device, ", ".join(" ".join(each) for each in sorted(row.versions.items())))
        for row in table.rows
    )
    lines = [[recipe, kind, str(n)] for (recipe, kind), n in sorted(kinds.items())]
    where = "\n".join(f"- {n} rows: {device}; {on}" for (device, on), n in made.most_common())
    return f"{_markdown(('recipe', 'kind', 'rows'), lines)}\n\n{where}"


def accuracy(rows: Sequence[Row]) -> str:
    """Quantiles over networks of what they reach and cost."""
    if not rows:
        return "So far none is trained."
    lines = [
        _quantiles("accuracy, %", [100 * row.accuracy for row in rows], 1),
        _quantiles("M MACs", [row.macs / 1e6 for row in rows], 1),
        _quantiles("receptive field", [row.receptive_field or math.nan for row in rows], 0),
        _quantiles("processor seconds", [row.processor_seconds for row in rows], 0),
    ]
    collapsed = sum(row.collapsed for row in rows)
    quick = sum(row.processor_seconds <= MEANT_SECONDS for row in rows) / len(rows)
    head = (f"n = {len(rows)}", "least", "10 %", "median", "90 %", "most")
    return (
        f"{_markdown(head, lines)}\n\n{quick:.0%} took {MEANT_SECONDS} s or less. {collapsed} of "
        f"{len(rows)} collapsed: they guess, as those do whose loss diverges."
    )


def noise(table: Table) -> str:
    """The spread between seeds, and what it leaves of a perfect ranking.

    Of trainings that collapsed only the share is told: they are no matter of points.
    """
    several = list(table.repeated().values())
    collapsed = sum(row.collapsed for rows in several for row in rows)
    groups = [learned for rows in several if (learned := [r for r in rows if not r.collapsed])]
    groups.sort(key=lambda rows: -float(np.mean([row.accuracy for row in rows])))
    within = _spread(groups)
    of_all = float(np.std([row.accuracy for row in table.uniform() if not row.collapsed], ddof=1))
    true = max(0, 1 - (within.value / of_all) ** 2)
    pairs = [(rows[0].accuracy, other.accuracy) for rows in groups for other in rows[1:]]
    return f"""\
- Standard deviation between seeds of a network: {within.format(2, 100)} points of accuracy,
  {_spread(groups, lambda row: row.losses[-1]).format(3)} of the loss ({len(groups)} networks,
  {within.n} degrees of freedom). In the better half of these networks it is
  {_spread(groups[: len(groups) // 2]).format(2, 100)} points.
- Of their {sum(map(len, several))} trainings {collapsed} collapsed, and are left out of this.
- Standard deviation between networks, noise included: {100 * of_all:.2f} points.
- So {100 * true:.0f} % of the variance between networks is theirs, and no predictor correlates
  with single trainings by more than {math.sqrt(true):.3f} (its square root: Spearman, 1904).
- Rank correlation of a training with another seed's of the same network:
  {spearman(*zip(*pairs, strict=True)).value:.3f} ({len(pairs)} pairs)."""


def epochs(rows: Sequence[Row]) -> str:
    """How each epoch ranks what the last ranks."""
    final = [row.accuracy for row in rows]
    count = len(rows[0].accuracies)
    lines = []
    for epoch in range(count):
        reached = [row.accuracies[epoch] for row in rows]
        correlation = spearman(reached, final).format(3) if epoch < count - 1 else "1"
        lines.append([str(epoch + 1), f"{100 * float(np.median(reached)):.1f}", correlation])
    return _markdown(("epoch", "median accuracy, %", "Spearman with the last"), lines)


def facts(rows: Sequence[Row]) -> str:
    """The rank correlation of each fact with the accuracy."""
    reached = [row.accuracy for row in rows]
    lines = [
        [name, spearman([column(row) for row in rows], reached).format(2)]
        for name, column in FACTS.items()
    ]
    return _markdown(("fact", "Spearman with accuracy"), lines)


def _largest_first(named: Iterator[tuple[str, Estimate]]) -> list[tuple[str, Estimate]]:
    """Those that are certain, by the size of the effect, whatever its sign."""
    certain = [(name, each) for name, each in named if each.certain]
    return sorted(certain, key=lambda pair: -abs(pair[1].value))


def choices(rows: Sequence[Row]) -> str:
    """What each value of a choice adds, and how each number ranks: those that are certain."""
    named, ranked = _largest_first(_effects(rows)), _largest_first(_ranks(rows))
    return "\n\n".join(
        [
            _markdown(
                ("choice", "networks", "points of accuracy against the others"),
                [[name, str(each.n), each.format(1, 100)] for name, each in named],
            ),
            _markdown(
                ("number", "networks", "Spearman with accuracy"),
                [[name, str(each.n), each.format(2)] for name, each in ranked],
            ),
        ]
    )


def whole(table: Table) -> str:
    """How well the short training ranks the long one."""
    short = {row.architecture: row for row in table.first()}
    pairs = [
        (short[row.architecture], row) for row in table.first("whole") if row.architecture in short
    ]
    if len(pairs) < 4:
        return f"So far {len(pairs)} networks are trained by both: too few to say."
    correlation = spearman([s.accuracy for s, _ in pairs], [w.accuracy for _, w in pairs])
    reached = [100 * row.accuracy for _, row in pairs]
    return (
        f"Spearman of the short training with the whole recipe: {correlation.format(2)}, "
        f"n = {len(pairs)};\nthe whole recipe reached {min(reached):.1f} to {max(reached):.1f} %."
    )


def layers(row: Row) -> int:
    """The convolutions of a row's network, without the classifier."""
    return sum(len(block.layers) for block in network(row.choices).blocks)


def _spread(groups: Sequence[Sequence[Row]], column: Column = lambda row: row.accuracy) -> Estimate:
    return deviation([[column(row) for row in rows] for rows in groups])


def _effects(rows: Sequence[Row]) -> Iterator[tuple[str, Estimate]]:
    """Each value of each choice against the others, among networks where it means something."""
    for name, domain in study("short").parameters.items():
        if isinstance(domain, Choice) and name != "head":
            some = [row for row in rows if _means_something(row, name)]
            values = domain.values[1:] if len(domain.values) == 2 else domain.values
            for value in values:
                ours = [row.accuracy for row in some if row.choices[name] == value]
                others = [row.accuracy for row in some if row.choices[name] != value]
                yield f"{name} = {str(value).lower()}", difference(ours, others)


def _ranks(rows: Sequence[Row]) -> Iterator[tuple[str, Estimate]]:
    for name, domain in study("short").parameters.items():
        if name == "head" or not isinstance(domain, Choice):
            some = [row for row in rows if _means_something(row, name)]
            column = [float(row.choices[name]) for row in some]
            yield name, spearman(column, [row.accuracy for row in some])


def _means_something(row: Row, name: str) -> bool:
    """A block of depth 0 is its transition alone: its other choices but the width, which the
    transition before it gives, mean nothing."""
    block, _, key = name.partition(".")
    free = "." in key or key in ("depth", "width") or not key
    return free or row.choices.get(f"{block}.depth") != 0


def _quantiles(name: str, values: Sequence[float], digits: int) -> list[str]:
    found = np.nanquantile(values, [0, 0.1, 0.5, 0.9, 1])
    return [name, *(f"{value:.{digits}f}" for value in found)]


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = "|---" * len(head) + "|"
    return "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(c)} |" for c in lines)])


def main(arguments: Sequence[str]) -> int:
    """Prints the page; 2 where there is no table of enough networks."""
    try:
        print(page(load(Path(arguments[0]) if arguments else COMMITTED)), end="")
    except ConfigError as error:
        print(f"landscape: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
