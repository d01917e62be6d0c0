from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.landscape import report
from benchmarks.landscape.recipes import drawn
from benchmarks.landscape.statistics import Estimate, deviation, difference, spearman
from benchmarks.landscape.table import Header, Row, Table, append, load
from tests.landscape import row

REPEATS = 500
COVERED = (0.92, 0.98)  # of 500 intervals of 95 %: three standard errors around


@pytest.fixture(scope="module")
def table() -> Table:
    """Sixty networks; a separable C4 is worth five points, a seed one point, and nothing else
    anything.  The first epoch knows nothing of the last."""
    rng = random.Random(0)

    def trained(index: int, seed: int = 0) -> Row:
        bonus = 0.05 * (drawn(index)["C4.operator"] == "separable")
        return row(index, rng.random(), 0.5 + bonus + rng.gauss(0, 0.01), seed=seed)

    rows = [trained(index) for index in range(60)]
    rows += [trained(index, seed) for index in range(0, 60, 4) for seed in (1, 2, 3)]
    return Table(Header(landscape=1, images="", settings=""), tuple(rows))


def share_covered(truth: float, estimates: list[Estimate]) -> float:
    return sum(each.low <= truth <= each.high for each in estimates) / len(estimates)


def test_rank_correlations_lie_in_their_intervals() -> None:
    rng, rho = np.random.default_rng(0), 0.6
    normal = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], (REPEATS, 40))
    found = [spearman(list(each[:, 0]), list(each[:, 1])) for each in normal]
    # Pearson's of a normal pair, 1907: Spearman's is 6 / pi x asin(rho / 2).
    covered = share_covered(6 / math.pi * math.asin(rho / 2), found)
    assert COVERED[0] <= covered <= COVERED[1]


def test_deviations_within_groups_lie_in_their_intervals() -> None:
    draws = np.random.default_rng(0).normal(0, 3, (REPEATS, 10, 4))
    means = np.arange(10)[:, None]
    covered = share_covered(3, [deviation([list(g) for g in each + means]) for each in draws])
    assert COVERED[0] <= covered <= COVERED[1]


def test_differences_of_means_lie_in_their_intervals() -> None:
    rng = np.random.default_rng(0)
    found = [
        difference(list(rng.normal(2, 1, 12)), list(rng.normal(0, 4, 30))) for _ in range(REPEATS)
    ]
    assert COVERED[0] <= share_covered(2, found) <= COVERED[1]


def test_nothing_is_said_of_too_few() -> None:
    assert not spearman([1, 2, 3], [1, 2, 3]).certain
    assert not spearman([1, 1, 1, 1], [1, 2, 3, 4]).certain
    assert not difference([1], [2, 3]).certain
    assert not deviation([[1], [2]]).certain


def test_a_choice_that_is_worth_five_points_is_found(table: Table) -> None:
    lines = report.choices(table.first()).splitlines()
    found = next(line for line in lines if line.startswith("| C4.operator = separable"))
    value = float(found.split("|")[3].split()[0])
    assert value == pytest.approx(5, abs=1)
    assert lines.index(found) == 2  # of all choices the first


def test_the_noise_is_that_of_the_seeds(table: Table) -> None:
    text = report.noise(table)
    value = float(text.split(":")[1].split()[0])
    assert value == pytest.approx(1, abs=0.25)
    assert "45 degrees of freedom" in text
    assert "Of their 60 trainings 0 collapsed" in text


def test_a_collapsed_training_is_no_noise(table: Table) -> None:
    dead = row(0, 0.1, 0.1, seed=4)
    text = report.noise(replace(table, rows=(*table.rows, dead)))
    assert "Of their 61 trainings 1 collapsed" in text
    assert text.splitlines()[0] == report.noise(table).splitlines()[0]


def test_an_epoch_that_knows_nothing_does_not_rank(table: Table) -> None:
    first = report.epochs(table.first()).splitlines()[2]
    assert abs(float(first.split("|")[3].split()[0])) < 0.3


def test_networks_that_searches_led_to_stand_apart(table: Table) -> None:
    assert "So far none is trained." in report.page(table)
    led = {"kind": "guided", "index": None}
    guided = [row(index, 0.9, 0.9).model_copy(update=led) for index in range(70, 90)]
    page = report.page(replace(table, rows=(*table.rows, *guided)))
    assert "n = 20 | least" in page
    assert page.split("## Noise")[1] == report.page(table).split("## Noise")[1]


def test_few_networks_by_the_whole_recipe_are_said_to_be_few(table: Table) -> None:
    assert "So far 0 networks" in report.whole(table)


def test_a_table_of_few_networks_is_told_in_a_line(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "landscape.jsonl"
    append(path, table.header)
    append(path, table.rows[0])
    assert report.main([str(path)]) == 2
    output = capsys.readouterr()
    assert not output.out
    assert output.err.endswith("trains more\n")
    assert output.err.count("\n") == 1


def test_the_page_is_of_the_committed_table() -> None:
    page = report.COMMITTED.with_name("landscape.md").read_text()
    assert page == report.page(load(report.COMMITTED))
