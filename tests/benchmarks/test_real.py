"""A real study on images of noise."""

from __future__ import annotations

from pathlib import Path

from benchmarks.landscape.recipes import Trainer
from benchmarks.search.arms import DEFAULT
from benchmarks.search.real import AGAIN, row, trained


def test_a_study_costs_what_it_is_given_and_goes_on_where_it_stopped(
    images: Path, tmp_path: Path
) -> None:
    dataset = Trainer(images, "cpu", tmp_path / "augmented").dataset("short")
    real = trained(DEFAULT, 5, 1e-9, tmp_path, dataset)
    assert len(real.trials) == 1
    cost = 1e3 * real.pflop
    real = trained(DEFAULT, 5, 1.01 * cost, tmp_path, dataset)
    assert len(real.trials) == 2
    line = row(real)
    assert len(real.study.user_attrs["again"]) == len(AGAIN)
    began = [trial.datetime_start for trial in real.trials]
    real = trained(DEFAULT, 5, 1.01 * cost, tmp_path, dataset)
    assert [trial.datetime_start for trial in real.trials] == began
    assert row(real) == line
