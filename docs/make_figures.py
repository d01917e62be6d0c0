"""Draws the figures of the documentation.

    python -m docs.make_figures                        # what needs no study
    python -m docs.make_figures DATABASE [STUDY]       # images/search.png, the README's first

The reaches are those that the checker computes, the shares those of results/sampling.md.  DATABASE
is a SQLite file, perhaps packed with gzip, as docs/results/cifar10-search.db.gz is; STUDY names
one of its studies, where there are several.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import tempfile
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from search.analysis.facts import Facts
from search.analysis.reach import Reach, compose, unite, window
from search.display import wording
from search.display.figures.style import BLUE, GRAY, GREEN, INK, VERMILION, WIDTH, png, styled
from search.networks.architecture import Architecture
from search.storage.finalists import choose
from search.storage.places import Place
from search.storage.studies import load_study, study_names
from search.storage.summary import Progress, Summary, summarize

HERE = Path(__file__).parent
SIZE = 64  # units of every map; what is drawn lies well inside
Row = tuple[str, Reach, str]


def chain() -> list[Row]:
    """3x3, 3x3 of stride 2, 3x3 of dilation 2: what unit 0 of each sees of the image."""
    first = window(3, before=1)
    second = compose(window(3, stride=2, before=1), first, SIZE)
    third = compose(window(3, before=2, dilation=2), second, SIZE)
    return [("3x3", first, BLUE), ("3x3, stride 2", second, BLUE), ("3x3, dilation 2", third, BLUE)]


def misaligned() -> list[Row]:
    """Two branches of which neither holds the other, and their sum."""
    left, right = window(13, before=14), window(9)
    return [
        ("left branch", left, GREEN),
        ("right branch", right, GREEN),
        ("their sum", unite(left, right, SIZE), BLUE),
    ]


def sparse() -> list[Row]:
    """1x1 of stride 2, twice, then 3x3: most of the span is skipped."""
    first = window(1, stride=2)
    second = compose(window(1, stride=2), first, SIZE)
    third = compose(window(3, before=1), second, SIZE)
    rows = (("1x1, stride 2", first), ("1x1, stride 2", second), ("3x3", third))
    return [(label, reach, BLUE) for label, reach in rows]


@styled
def reaches() -> Figure:
    """The three examples, one above the other, on one axis of the image."""
    examples = {
        "A chain: the field grows by dilation x (kernel - 1) x jump": chain(),
        "Misaligned branches: the union is wider than either": misaligned(),
        "Strided 1x1 convolutions: the span has gaps": sparse(),
    }
    figure = Figure(figsize=(WIDTH, 4.6))
    for axes, (title, rows) in zip(
        figure.subplots(3, 1, sharex=True), examples.items(), strict=True
    ):
        _strips(axes, title, rows)
    axes.set_xlabel("input pixels that unit 0 sees; 0 is the first of the image")
    return figure


def _strips(axes: Axes, title: str, rows: list[Row]) -> None:
    for height, (_, reach, color) in enumerate(rows):
        start, mask = reach.at(0)
        seen = [start + bit for bit in range(mask.bit_length()) if mask >> bit & 1]
        axes.plot([start - 0.5, start + reach.span - 0.5], [height, height], color=GRAY, lw=1)
        axes.bar(seen, 0.6, 0.8, bottom=height - 0.3, color=color)
        note = f"{reach.span}" if reach.seen == reach.span else f"{reach.span} ({reach.seen} seen)"
        axes.text(start + reach.span, height, note, va="center", color=INK)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-15.5, 13.5)
    axes.set_title(title)
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False)


def legal_shares() -> dict[str, tuple[float, float, float]]:
    """Mean, lowest and highest share of legal slots by strategy, as measured."""
    text = (HERE / "results" / "sampling.md").read_text(encoding="utf-8")
    number = r"(\d+\.\d)"
    row = rf"^\| ([^|]+) \| {number} % \({number}–{number}\) \|"
    found = re.findall(row, text, re.MULTILINE)
    return {name: (float(mean), float(low), float(high)) for name, mean, low, high in found}


@styled
def legal() -> Figure:
    """Share of trials that train a legal network, by what becomes of an illegal one."""
    shares = legal_shares()
    figure = Figure(figsize=(WIDTH, 2.1))
    axes = figure.subplots()
    for height, (mean, low, high) in enumerate(shares.values()):
        axes.barh(height, mean, color=BLUE if height == len(shares) - 1 else GRAY)
        axes.plot([low, high], [height, height], color=VERMILION, lw=2)
        axes.text(max(mean, high) + 1, height, f"{mean} %", va="center")
    axes.set_yticks(range(len(shares)), list(shares))
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xlabel("% of 150 trials with a legal network; red: the range of 5 seeds")
    return figure


# --- a search and its winner, beside the network that was made by hand -------------------

# By its author's log: accuracy on the test images at the end, the epochs of 50,000 images.
BASELINE, EPOCHS = 0.8533, 100


@styled
def searched(summary: Summary, winner: int) -> Figure:
    """Accuracy of every trial over what its training cost; the baseline is a line from what its
    own training cost."""
    figure = Figure(figsize=(WIDTH, 3.6))
    axes = figure.subplots()
    ended = [trial for trial in summary.trials if trial.state in ("pruned", "complete")]
    measured = [trial for trial in ended if trial.accuracy and trial.pflop]
    for state, marker in (
        ("pruned", {"marker": "x", "color": GRAY, "s": 18, "lw": 1, "label": "stopped early"}),
        ("complete", {"color": BLUE, "s": 22, "label": "trained to its end"}),
    ):
        shown = [trial for trial in measured if trial.state == state]
        _points(axes, shown, **marker)
    _points(axes, [t for t in measured if t.number == winner], marker="*", s=240, color=VERMILION,
            zorder=3, label=f"winner: {_words(summary, winner)}")  # fmt: skip
    cost = baseline_cost()
    axes.axhline(BASELINE, color=INK, lw=1, ls=":")
    label = f"hand-made baseline: {wording.percent(BASELINE)} (test) for {wording.flops(cost)}"
    axes.scatter([cost], [BASELINE], marker="D", s=36, color=INK, zorder=3, label=label)
    axes.set(xlabel="cost of the training: 6 x MACs x images seen", ylabel="validation accuracy",
             xscale="log")  # fmt: skip
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: wording.flops(cost)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title(
        f"{wording.count(summary.proposed)} networks proposed, {wording.count(summary.accepted)} "
        f"legal, {wording.count(len(measured))} trained"
    )
    axes.grid(axis="y")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return figure


def _points(axes: Axes, trials: list[Progress], **marker: object) -> None:
    axes.scatter([t.pflop for t in trials], [t.accuracy for t in trials], **marker)


def _words(summary: Summary, winner: int) -> str:
    means = (f for f in summary.standing.finalists if f.trial == winner and f.mean is not None)
    again = next(means, None)
    if again is None:
        return next(wording.percent(t.accuracy) for t in summary.best if t.number == winner)
    return wording.repeated(again.mean or 0.0, again.error or 0.0, len(again.measures))


def baseline_cost() -> float:
    """PFLOP of the baseline's training."""
    content = json.loads((HERE.parent / "studies" / "baseline.json").read_text(encoding="utf-8"))
    return 6 * Facts(Architecture.from_json(content)).macs * EPOCHS * 50_000 / 1e15


def search_of(database: Path, name: str | None = None) -> Figure:
    """The picture of a study in a SQLite file; `name` is needed where it holds several."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "study.db"  # what is committed is not opened for writing
        packed = database.suffix == ".gz"
        copy.write_bytes((gzip.open if packed else open)(database, "rb").read())
        place = Place.of(f"sqlite:///{copy}")
        study = load_study(name or study_names(place)[0], place)
        return searched(summarize(study), choose(study).number)


PICTURES = {"receptive-field": reaches, "legal-trials": legal}
HERO = "search"


def main(database: str | None = None, study: str | None = None) -> None:
    """Draws what needs no study, or the study of a database."""
    drawn = {HERO: lambda: search_of(Path(database), study)} if database else PICTURES
    for name, draw in drawn.items():
        path = HERE / "images" / f"{name}.png"
        path.write_bytes(png(draw()))
        print(path, file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
