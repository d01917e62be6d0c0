"""Pruners compare with what the study's own trials bear out."""

from __future__ import annotations

import optuna
import pytest

from search.workers.pruners import Halving, Median
from tests.storage.test_refuted import study


@pytest.mark.parametrize("pruner", [Halving(min_resource=2, reduction_factor=2), Median(3, 1)])
@pytest.mark.parametrize(("own", "pruned"), [(0.1, False), (0.4, True)])
def test_a_pruner_passes_over_what_is_refuted(
    pruner: optuna.pruners.BasePruner, own: float, pruned: bool
) -> None:
    asked = study(pruner, own).ask()
    asked.report(0.05, 1)
    asked.report(0.2, 2)
    assert asked.should_prune() == pruned
