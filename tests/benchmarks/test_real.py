"""A pair of real studies on images of noise."""

from __future__ import annotations

from pathlib import Path

from benchmarks.landscape.recipes import Trainer
from benchmarks.search.arms import DEFAULT
from benchmarks.search.real import AGAIN, pair, row


def test_a_pair_has_the_same_cost_and_goes_on_where_it_stopped(
    images: Path, tmp_path: Path
) -> None:
    dataset = Trainer(images, "cpu", tmp_path / "augmented").dataset("short")
    random, ours = pair(DEFAULT, 5, 1, tmp_path, dataset)
    assert len(random.trials) == 1
    assert ours.pflop >= random.pflop
    assert ours.pflop - (ours.trials[-1].user_attrs["pflop"]) < random.pflop
    line = row(ours)
    assert len(ours.study.user_attrs["again"]) == len(AGAIN)
    began = [trial.datetime_start for trial in (*random.trials, *ours.trials)]
    random, ours = pair(DEFAULT, 5, 1, tmp_path, dataset)
    assert [trial.datetime_start for trial in (*random.trials, *ours.trials)] == began
    assert row(ours) == line
