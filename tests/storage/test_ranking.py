"""Which of a few noisy candidates is the best: against quadrature, and against the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from search.storage.ranking import Ranking

NEAR = ((0.851, 0.849, 0.853), (0.850, 0.848, 0.846), (0.844, 0.847))


def test_with_two_finalists_the_probability_is_that_of_the_integral() -> None:
    # Students t of the difference given the spread, averaged over the spread's posterior.
    first, second = np.array([0.853, 0.848, 0.851, 0.855]), np.array([0.849, 0.846])
    within = sum(float(((values - values.mean()) ** 2).sum()) for values in (first, second))
    gap, freedom = float(first.mean() - second.mean()), len(first) + len(second) - 1
    # Substituting r = 2 tan(u) makes the half-Cauchy prior uniform in u.
    spreads = 2 * np.tan((np.arange(20_000) + 0.5) / 20_000 * math.pi / 2)
    variance = 2 * spreads**2 + 1 / len(first) + 1 / len(second)
    squares = within + gap**2 / variance
    density = variance**-0.5 * squares ** (-freedom / 2)
    # The difference is shrunk by the share of its variance that is no noise.
    share = 2 * spreads**2 / variance
    scale = np.sqrt(squares / freedom * share * (1 / len(first) + 1 / len(second)))
    expected = np.average(stats.t.cdf(share * gap / scale, freedom), weights=density)
    found = Ranking((tuple(first), tuple(second))).probabilities
    assert found[0] == pytest.approx(expected, abs=0.01)
    assert sum(found) == pytest.approx(1)


def test_claims_hold_where_the_model_does() -> None:
    """Over studies whose finalists differ by as much as their noise."""
    rng = np.random.default_rng(0)
    claims, hits, biases = [], [], []
    for _ in range(400):
        truth = 0.85 + 0.01 * rng.normal(size=3)
        ranking = Ranking(tuple(tuple(mean + 0.01 * rng.normal(size=3)) for mean in truth))
        claims.append(max(ranking.probabilities))
        hits.append(ranking.leader == truth.argmax())
        biases.append(ranking.means[ranking.leader] - truth[ranking.leader])
    error = np.std(np.subtract(hits, claims)) / math.sqrt(len(hits))
    assert abs(np.mean(hits) - np.mean(claims)) < 3 * error
    assert abs(np.mean(biases)) < 3 * np.std(biases) / math.sqrt(len(biases))


def test_a_leader_is_claimed_to_be_less_good_than_it_looked() -> None:
    ranking = Ranking(NEAR)
    assert ranking.leader == 0
    assert np.mean(NEAR[2]) < ranking.means[0] < np.mean(NEAR[0])
    assert 0 < ranking.errors[0] < 0.005


def test_neither_order_nor_units_matter() -> None:
    points = Ranking(tuple(tuple(100 * value for value in values) for values in NEAR))
    assert points.probabilities == pytest.approx(Ranking(NEAR).probabilities, abs=1e-3)
    turned = Ranking(NEAR[::-1]).probabilities
    assert turned[::-1] == pytest.approx(Ranking(NEAR).probabilities, abs=0.02)


def test_more_measures_of_the_same_make_it_certain() -> None:
    few, many = (Ranking(tuple(values * times for values in NEAR)) for times in (1, 10))
    assert max(few.probabilities) < 0.95 < max(many.probabilities)


def test_measures_without_noise_and_a_single_finalist() -> None:
    same = Ranking(((0.9, 0.9), (0.9, 0.9)))
    assert same.probabilities == pytest.approx((0.5, 0.5), abs=0.02)
    alone = Ranking(((0.86, 0.84),))
    assert alone.probabilities == (1.0,)
    assert alone.means[0] == pytest.approx(0.85, abs=0.001)


def test_an_error_is_no_less_than_the_noise_of_all_finalists() -> None:
    """One that came out the same twice is not exact: the others show what a training scatters."""
    measures = ((0.85, 0.85), (0.85, 0.852, 0.848), (0.846, 0.85))
    pooled = math.sqrt((2 * 0.002**2 + 2 * 0.002**2) / (1 + 2 + 1))
    ranking = Ranking(measures, images=5_000)
    assert ranking.noise == pytest.approx(pooled)
    for error, values in zip(ranking.errors, measures, strict=True):
        assert error >= pooled / math.sqrt(len(values)) - 1e-12


def test_the_error_of_many_measures_is_that_of_their_mean() -> None:
    """s / √n, where neither the prior nor the other finalists tell more."""
    rng = np.random.default_rng(0)
    measures = [0.01 * rng.normal(size=200) + mean for mean in (0.7, 0.8, 0.9)]
    noise = math.sqrt(np.mean([values.var(ddof=1) for values in measures]))
    errors = Ranking(tuple(map(tuple, measures))).errors
    assert errors == pytest.approx([noise / math.sqrt(200)] * 3, rel=0.05)


@pytest.mark.parametrize("share", [0.9, 1.0])
def test_trainings_that_all_came_out_alike_have_the_error_of_their_images(share: float) -> None:
    """A quarter of Wilson's interval of 95 %, which about four errors span."""
    images = 300
    ranking = Ranking(((share, share), (share - 0.01, share - 0.01)), images)
    test = stats.binomtest(round(images * (share - 0.005)), images)
    interval = test.proportion_ci(method="wilson")
    once = (interval.high - interval.low) / 4
    assert ranking.noise == pytest.approx(once, rel=0.15)
    assert min(ranking.errors) >= ranking.noise / math.sqrt(2) - 1e-12
    assert max(ranking.probabilities) < 0.95, "a point, of 300 images, is no proof"


def test_what_was_measured_once_is_not_ranked() -> None:
    with pytest.raises(ValueError, match="needs 2 measures, but one has 1"):
        Ranking(((0.9, 0.8), (0.9,)))
