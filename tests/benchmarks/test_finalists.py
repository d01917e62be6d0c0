"""The bench of finalists, on a landscape whose truth is a formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.finalists import Outcome, main, outcome, table
from benchmarks.landscape.table import load
from benchmarks.search import world as worlds
from benchmarks.search.arms import ARMS, RANDOM
from benchmarks.search.world import Landscape, World
from tests.benchmarks.test_search import written


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("table") / "landscape.jsonl", 60)


def test_leader_is_judged_by_the_truth_of_its_world(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worlds, "_POOL", 200)
    landscape = Landscape(load(path), "process")
    found = [outcome(ARMS[RANDOM], World(landscape, seed), seed, 8) for seed in range(4)]
    told = [each for each in found if each is not None]
    assert len(told) == 4
    for each in told:
        assert 6 <= each.trainings <= 12
        assert each.claimed >= 0.95 or each.trainings == 12
        assert each.right == (each.regret == 0)
        assert abs(each.averaged) < 4 * landscape.noise
    # Of many noisy numbers the highest is too high; trainings since know nothing of that.
    assert np.mean([each.once for each in told]) > np.mean([each.averaged for each in told])
    assert found[0] == outcome(ARMS[RANDOM], World(landscape, 0), 0, 8)


def test_table_counts_what_was_claimed_and_right() -> None:
    sure, unsure = (
        Outcome(claimed, claimed > 0.9, 8, 0.01, 0.0, 0.03, 0.0) for claimed in (0.97, 0.6)
    )
    last = table({"tpe": [sure, sure, unsure, sure]}).splitlines()[-1]
    cells = [cell.strip() for cell in last.strip("|").split("|")]
    assert cells[:4] == ["tpe", "4", "3", "97.0"]
    # Clopper and Pearson: (0.05 / 2) ** (1 / 3) is the lower end of three of three.
    assert cells[4] == f"100.0 ({100 * 0.025 ** (1 / 3):.1f} to 100.0)"
    assert cells[6].startswith("75.0 (")
    assert cells[8:11] == [
        "+1.00 (+1.00 to +1.00)",
        "+0.00 (+0.00 to +0.00)",
        "+3.00 (+3.00 to +3.00)",
    ]


def test_table_that_is_none_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "landscape.jsonl").write_text("")
    assert main([str(tmp_path / "landscape.jsonl")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
