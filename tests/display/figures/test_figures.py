"""Figures: what they claim is what they were given, at every size a study may have."""

from __future__ import annotations

import io
import itertools
import math

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from benchmarks.published.resnet8 import resnet8
from search.analysis.table import analyze
from search.analysis.traced import TracedModule
from search.analysis.tracing.trace import trace
from search.display.figures import curves
from search.display.figures.columns import columns, growth
from search.display.figures.comparison import figure_comparison
from search.display.figures.diagram import figure_architecture, figure_receptive_field
from search.display.figures.images import (
    figure_augmentations,
    figure_class_balance,
    figure_misclassified,
    figure_pixel_histogram,
    figure_samples,
)
from search.display.figures.search import (
    figure_funnel,
    figure_history,
    figure_importance,
    figure_tradeoff,
    pareto_front,
)
from search.display.figures.style import DPI, WIDTH, png
from search.networks.architecture import Architecture
from tests.conftest import candidates

NAMES = tuple(f"class {k}" for k in range(10))
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 16, 24, 3), np.uint8)
LABELS = np.arange(40) % 10
HISTORY = [
    {"epoch": n, "train_loss": 2 / n, "validation_loss": 2.2 / n, "accuracy": 1 - 0.6 / n}
    for n in range(1, 9)
]


def texts(figure: Figure) -> set[str]:
    png(figure)  # ticks get their texts when drawn
    return {text.get_text() for text in figure.findobj(matplotlib.text.Text)}


def test_a_png_has_the_size_of_its_figure() -> None:
    content = png(figure_samples(IMAGES, LABELS, NAMES, per_class=3))
    image = Image.open(io.BytesIO(content))
    assert image.width == WIDTH * DPI


def test_the_style_of_others_is_left_alone() -> None:
    before = dict(matplotlib.rcParams)
    png(figure_importance({"width": 0.75, "depth": 0.25}))
    assert dict(matplotlib.rcParams) == before


def test_curves_leave_out_what_was_not_measured() -> None:
    blind = [{**record, "accuracy": math.nan, "validation_loss": None} for record in HISTORY]
    figure = curves.figure_learning_curves({"trial": HISTORY, "retraining": blind}, target=0.9)
    accuracy, loss = figure.axes
    drawn = [line for line in accuracy.lines if len(line.get_xdata()) > 2]
    assert [list(line.get_ydata()) for line in drawn] == [[r["accuracy"] for r in HISTORY]]
    assert {line.get_label() for line in loss.lines} == {
        "trial, training",
        "trial, validation",
        "retraining, training",
    }


@pytest.mark.parametrize("target", [0.3, 0.99, 1.0])
def test_the_labels_of_curves_overlap_nothing(target: float) -> None:
    figure = curves.figure_learning_curves({"trial 123": HISTORY, "retraining": HISTORY}, target)
    png(figure)  # places are known when drawn
    for axes in figure.axes:
        curve = axes.get_window_extent()
        labels = [axes.get_legend().get_window_extent(), axes.xaxis.label.get_window_extent()]
        labels += [tick.get_window_extent() for tick in axes.get_xticklabels()]
        boxes = [curve, *labels]
        pairs = itertools.combinations(boxes, 2)
        assert not [pair for pair in pairs if pair[0].shrunk(0.98, 0.98).overlaps(pair[1])]


@pytest.mark.parametrize("studies", [2, 7])
def test_the_names_of_compared_studies_lie_beside_their_curves(studies: int) -> None:
    roads = {f"a study called {i}": [0.1 * i, 0.1 * i + 0.01] for i in range(studies)}
    sizes = {name: [(1_000, road[-1])] for name, road in roads.items()}
    figure = figure_comparison(roads, {**sizes, "a study called 0": []})
    png(figure)  # places are known when drawn
    (legend,) = figure.legends
    for axes in figure.axes:
        looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
        assert len(looks) == studies, "each has a look of its own"
    names = legend.get_window_extent()
    assert figure.bbox.padded(1).fully_contains(names.x0, names.y0)
    assert figure.bbox.padded(1).fully_contains(names.x1, names.y1)
    assert [text.get_text() for text in legend.get_texts()] == list(roads)
    assert not [axes for axes in figure.axes if axes.get_tightbbox().overlaps(names)]


@pytest.mark.parametrize("classes", [2, 10, 40])
def test_a_confusion_matrix_of_any_size(classes: int) -> None:
    matrix = np.eye(classes, dtype=np.int64) * 7_654
    figure = curves.figure_confusion_matrix(matrix, [f"c{k}" for k in range(classes)])
    assert ("7654" in texts(figure)) == (classes <= 20)


def test_misclassified_images_carry_both_classes() -> None:
    figure = figure_misclassified(IMAGES[:3], LABELS[:3], LABELS[5:8], NAMES, [0.9, 0.5, 1])
    assert {"class 0", "→ class 5 90%", "→ class 7 100%"} <= texts(figure)


def test_no_mistake_is_said_so() -> None:
    figure = figure_misclassified(IMAGES[:0], [], [], NAMES)
    assert "Every image was classified correctly." in texts(figure)


def test_the_name_of_a_class_is_no_formula() -> None:
    figure = curves.figure_class_accuracy(["$\\frac$", "$x"], [0.5, 1.0])
    assert {"$\\frac$", "$x"} <= texts(figure)


def test_balance_and_funnel_name_their_counts() -> None:
    figure = figure_class_balance({"training": [1_234, 5]}, ["cat", "dog"])
    assert {"1,234", "training (1,239)", "cat"} <= texts(figure)
    figure = figure_funnel({"proposed": 98_765}, {"receptive_field": 4_321, "macs": 1})
    assert {"98,765", "receptive field", "4,321", "MACs"} <= texts(figure)


def test_nothing_rejected_is_a_funnel_too() -> None:
    assert "0" in texts(figure_funnel({"proposed": 3}, {}))


def test_the_best_so_far_counts_completed_trials_alone() -> None:
    figure = figure_history([0, 1, 2, 3], [0.5, 0.9, 0.4, 0.6], [False, True, False, False])
    (line,) = (line for line in figure.axes[0].lines if line.get_label() == "best so far")
    assert list(line.get_ydata()) == [0.5, 0.5, 0.6]


def test_axes_name_the_accuracy_that_the_search_went_by() -> None:
    history = figure_history([0, 1], [0.5, 0.9], [False, False], measure="balanced accuracy")
    tradeoff = figure_tradeoff([0.5, 0.8], {"MACs": [1e6, 2e6]}, measure="balanced accuracy")
    for figure in (history, tradeoff):
        assert figure.axes[0].get_ylabel() == "validation balanced accuracy"


def test_a_history_without_completed_trials_is_drawn() -> None:
    assert png(figure_history([0], [0.1], [True], target=0.85))


def test_the_pareto_front_is_what_nothing_beats() -> None:
    rng = np.random.default_rng(1)
    cost, gain = rng.integers(0, 9, 50).astype(float), rng.integers(0, 9, 50).astype(float)
    front = pareto_front(cost, gain)
    kept = {(cost[i], gain[i]) for i in front}
    best = {
        (c, g)
        for c, g in zip(cost, gain, strict=True)
        if not any(
            (cost[j] <= c and gain[j] > g) or (cost[j] < c and gain[j] >= g) for j in range(50)
        )
    }
    assert kept == best
    assert len(front) == len(kept)


def test_a_limit_is_shaded_where_it_forbids() -> None:
    figure = figure_tradeoff(
        [0.5, 0.8], {"parameters": [1e5, 1.9e5]}, winner=1, limits={"parameters": 2e5}
    )
    assert "rejected" in texts(figure)
    assert figure.axes[0].get_xlim()[1] > 2e5


def test_gray_images_have_one_histogram() -> None:
    gray = np.repeat(IMAGES[..., :1], 3, axis=3)
    assert "gray" in texts(figure_pixel_histogram(gray))
    assert {"red", "green", "blue"} <= texts(figure_pixel_histogram(IMAGES))


def test_augmentations_are_columns() -> None:
    figure = figure_augmentations(IMAGES[:2], {"HorizontalFlip": IMAGES[:2, :, ::-1]})
    assert {"original", "HorizontalFlip"} <= texts(figure)


@pytest.mark.parametrize("architecture", [*candidates(6, seed=11)], ids=lambda a: a.hash)
def test_a_diagram_tells_sizes_and_receptive_fields(architecture: Architecture) -> None:
    facts = analyze(architecture)
    field = facts.receptive_field[0]
    captions = [text for text in texts(figure_architecture(architecture)) if "RF " in text]
    assert len(captions) == 4
    side = "×".join(str(n) for n in facts.feature_map)
    assert any(side in text and f"RF {field}" in text for text in captions)
    picture = figure_receptive_field(np.zeros((32, 32, 3), np.uint8), architecture, 44)
    assert {f"C4: {field}×{field}", "must exceed 44"} <= texts(picture)


def traced(*layers: nn.Module) -> TracedModule:
    analysis = analyze(trace(nn.Sequential(*layers), (3, 32, 32)))
    return TracedModule("mine.py:network", "0" * 64, (3, 32, 32), 10, analysis)


def test_a_module_has_a_column_for_each_size_of_its_map() -> None:
    same = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
    network = traced(
        nn.Conv2d(3, 8, 3, padding=1), *same, nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    first, second, third = columns(network)
    assert [(column.name, column.caption) for column in (first, second, third)] == [
        ("32×32", "RF 9"), ("16×16", "RF 19"), ("8×8", "RF 21")]  # fmt: skip
    assert [(group.boxes[0].text, group.times) for group in first.groups] == [("3×3", 4)]
    assert [group.boxes[0].text for group in second.groups] == ["3×3, s2", "3×3, d2"]
    assert [span for _, span in growth(network)] == [3, 5, 7, 9, 11, 19, 21]
    assert {"×4", "3×3, s2", "other layers"} <= texts(figure_architecture(network))
    picture = figure_receptive_field(np.zeros((32, 32, 3), np.uint8), network, 44)
    assert {"8×8: 21×21", "must exceed 44"} <= texts(picture)


def test_a_shortcut_does_not_narrow_what_the_picture_says() -> None:
    network = traced(*resnet8())
    assert [column.caption for column in columns(network)] == ["RF 7", "RF 13", "RF 25"]
    assert [span for _, span in growth(network)] == [3, 5, 7, 9, 13, 13, 17, 25, 25]


def test_a_long_module_is_cut_and_one_without_maps_has_no_picture() -> None:
    sizes = (nn.Conv2d(3, 3, 2) for _ in range(12))
    *_, last = columns(traced(*sizes, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)))
    assert (last.name, last.caption) == ("…", "5 more")
    kernels = (nn.Conv2d(3, 3, 3, padding=d, dilation=d) for d in range(1, 31))
    (column,) = columns(traced(*kernels, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert (column.height, column.groups[-1].boxes[0].text) == (24, "and 7 more")
    flat = traced(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    assert (columns(flat), growth(flat)) == ([], [])
