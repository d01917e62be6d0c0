"""Tables that several views draw: their titles and rows, made once."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from search.analysis.table import LayerRow
from search.config.sections import StudySection
from search.display import wording
from search.storage.summary import Progress, Summary

Row = tuple[str, ...]

LAYERS: Row = ("", "op", "kind", *wording.GEOMETRY, "params", "MACs")


def layers(rows: Sequence[LayerRow]) -> Iterator[Row]:
    """The receptive-field table, under the titles `LAYERS`; a block is named in its first row."""
    blocks = ["", *(layer.block for layer in rows)]
    for layer, before in zip(rows, blocks, strict=False):
        yield (
            "" if layer.block == before else layer.block,
            layer.name,
            layer.kind,
            *wording.geometry(layer),
            wording.count(layer.parameters),
            wording.count(layer.macs),
        )


def leader_titles(section: StudySection) -> Row:
    """What stands above the values of `leader`."""
    return ("trial", section.measure, *wording.SIZES, "cost", "time")


def leader(trial: Progress) -> Row:
    """One of the best trials, under `leader_titles`."""
    return (
        f"#{trial.number}{' given' if trial.given else ' taken over' if trial.taken else ''}",
        wording.percent(trial.accuracy),
        *wording.sizes(*trial.sizes),
        wording.flops(trial.pflop),
        wording.duration(trial.seconds),
    )


STUDIES: Row = ("study", "trials", "accepted", "best", *wording.SIZES, "cost", "time", "target")


def study(summary: Summary) -> Row:
    """One study, under the titles `STUDIES`."""
    best = summary.best[0] if summary.best else None
    target = summary.config.study.target
    return (
        summary.name,
        wording.count(summary.finished),
        wording.percent(summary.accepted / summary.proposed, 1) if summary.proposed else "–",
        wording.best(summary, unlike=True) if best else "–",
        *wording.sizes(*(best.sizes if best else (None, None, None))),
        wording.flops(summary.cost or None),
        wording.duration(summary.spent),
        wording.percent(target) + (" met" if summary.met else ""),
    )


def markdown(titles: Row, rows: Iterable[Row], left: int = 1) -> str:
    """A Markdown table of which the first `left` columns are words and the others numbers."""
    rule = tuple(":--" if index < left else "--:" for index in range(len(titles)))
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, rule, *rows))


def comma_separated(titles: Row, rows: Iterable[Row]) -> str:
    """The table as CSV, numbers without separators of thousands."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows([cell.replace(",", "") for cell in row] for row in rows)
    return text.getvalue().rstrip("\n")
