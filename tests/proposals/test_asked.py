"""Networks that somebody asks for, in the terms of a study."""

from __future__ import annotations

import dataclasses

import pytest

from search.config.candidate import Candidate
from search.config.files import overridden
from search.errors import ConfigError
from search.proposals.asked import given, recipe_choices, require_fitting, require_legal
from search.proposals.proposer import RejectedError
from search.targets import read_architecture
from tests.conftest import STUDIES
from tests.synthetic_study import CLASSES, INPUT, config, feasible

BASELINE = read_architecture(STUDIES / "baseline.json")
SETTINGS = overridden(config(), ["limits.downsampling=off"])  # the baseline lacks one
MIDDLE = recipe_choices(SETTINGS, None)


def test_a_network_is_a_candidate_in_the_study_s_terms() -> None:
    assert list(MIDDLE) == ["training.learning_rate"]
    assert MIDDLE["training.learning_rate"] == pytest.approx((0.02 * 0.2) ** 0.5)
    choices = feasible(SETTINGS, 0)
    network = SETTINGS.candidate(choices, input=INPUT, classes=CLASSES).architecture
    candidate, choices = given(network, SETTINGS, None)
    assert SETTINGS.candidate(choices, input=INPUT, classes=CLASSES) == candidate
    like = dataclasses.replace(candidate.recipe, learning_rate=0.05, momentum=0.3)
    told, choices = given(network, SETTINGS, like)
    assert choices["training.learning_rate"] == told.recipe.learning_rate == 0.05
    assert told.recipe.momentum == candidate.recipe.momentum, "what the study fixes stays"
    far = dataclasses.replace(like, learning_rate=5.0)
    assert given(network, SETTINGS, far)[0] == candidate
    assert given(BASELINE, SETTINGS, None) == (Candidate(BASELINE, candidate.recipe), {})


def test_what_breaks_a_rule_or_reads_other_images_is_refused() -> None:
    require_legal(BASELINE, SETTINGS)
    require_fitting(BASELINE, INPUT, CLASSES)
    with pytest.raises(RejectedError, match=r"demo rejects the network: exactly 3 .* must down"):
        require_legal(BASELINE, config())
    with pytest.raises(ConfigError, match=r"\[3, 32, 32\] of 10 classes, .* \[1, 8, 8\] of 10"):
        require_fitting(BASELINE, (1, 8, 8), CLASSES)


def test_a_network_that_does_not_take_the_smaller_images_of_the_recipe_is_refused() -> None:
    """Its pooling of 3 x 3 pixels has room on 4 x 4, which 32 x 32 leave, and not on 2 x 2."""
    smaller = ["training.small_epochs=0.5", "training.small_side=0.75"]
    with pytest.raises(ConfigError, match=r"smaller images \[3, 24, 24\]: .*small_epochs=0"):
        given(BASELINE, overridden(SETTINGS, smaller), None)
    choices = feasible(SETTINGS, 0)
    network = SETTINGS.candidate(choices, input=INPUT, classes=CLASSES).architecture
    assert given(network, overridden(SETTINGS, smaller), None)[0].recipe.small_epochs == 0.5
