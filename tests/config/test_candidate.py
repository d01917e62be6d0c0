from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from search.analysis.facts import count_macs
from search.config.candidate import Candidate
from search.config.files import parse
from search.config.sections import StudyConfig
from search.domains import Choice
from search.networks.architecture import Architecture
from tests.conftest import RECIPE, STUDIES


def test_a_candidate_holds_what_its_choices_say(quickstart: StudyConfig) -> None:
    rng = random.Random(0)
    choices = {name: domain.sample(rng) for name, domain in quickstart.parameters.items()}
    candidate = quickstart.candidate(choices, input=(3, 32, 32), classes=10)
    assert candidate.recipe.learning_rate == choices["training.learning_rate"]
    assert candidate.recipe.epochs == quickstart.training.epochs
    assert candidate.architecture == quickstart.space.architecture(choices)


def test_settings_without_effect_leave_no_trace() -> None:
    config = parse(
        {
            "study": {"name": "s"},
            "training": {"optimizer": ["sgd", "muon"], "matrix_momentum": [0.5, 0.6]},
        },
        "here",
    )

    def hash_of(optimizer: str, momentum: float) -> str:
        choices = {"training.optimizer": optimizer, "training.matrix_momentum": momentum}
        return config.candidate(choices, input=(3, 32, 32), classes=10).hash

    assert hash_of("sgd", 0.5) == hash_of("sgd", 0.6)
    assert hash_of("muon", 0.5) != hash_of("muon", 0.6)


def test_a_key_that_a_recipe_leaves_alone_is_not_in_its_hash() -> None:
    """Or an older study that goes on would not know its own candidates again."""
    network = Architecture.from_json(json.loads((STUDIES / "baseline.json").read_text()))
    assert Candidate(network, RECIPE).hash == "719fb1711ae95bb7"
    assert Candidate(network, replace(RECIPE, identity=False)).hash == "719fb1711ae95bb7"
    assert Candidate(network, replace(RECIPE, identity=True)).hash != "719fb1711ae95bb7"


def _recipe(**training: object) -> Candidate:
    config = StudyConfig.model_validate({"study": {"name": "s"}, "training": training})
    choices = {
        name: domain.values[0] if isinstance(domain, Choice) else domain.low
        for name, domain in config.parameters.items()
    }
    return config.candidate(choices, input=(3, 32, 32), classes=10)


def test_the_first_epochs_train_on_smaller_images() -> None:
    recipe = _recipe(epochs=10, small_epochs=0.6, small_side=0.75).recipe
    sizes = [recipe.size(epoch, (32, 32)) for epoch in range(10)]
    assert sizes == [(24, 24)] * 6 + [(32, 32)] * 4
    assert recipe.size(0, (64, 32)) == (48, 24)
    twenty = _recipe(epochs=20, small_epochs=0.55, small_side=0.5).recipe
    assert [twenty.size(epoch, (32, 32)) for epoch in (10, 11)] == [(16, 16), (32, 32)]
    assert recipe.size(0, (8, 8)) == (8, 8)  # never below what three strides can halve


def test_pflop_counts_each_image_at_the_size_it_had() -> None:
    plain = _recipe(epochs=10)
    macs = count_macs(plain.architecture)
    assert plain.pflop(10, 10_000) == pytest.approx(6 * macs * 10_000 / 1e15)
    # A convolution's cost goes with the area; only the classifier's does not.
    small = _recipe(epochs=10, small_epochs=0.6, small_side=0.75)
    area = 0.6 * 0.75**2 + 0.4
    assert small.pflop(10, 10_000) == pytest.approx(area * plain.pflop(10, 10_000), rel=0.01)
    assert small.pflop(6, 6_000) == pytest.approx(0.75**2 * plain.pflop(6, 6_000), rel=0.01)
    assert plain.pflop(0, 0) == 0


def test_a_side_that_no_epoch_uses_does_not_tell_candidates_apart() -> None:
    assert _recipe(small_side=0.5, small_crop=True).hash == _recipe(small_side=0.75).hash
    assert _recipe(small_epochs=0.5, small_side=0.5).hash != _recipe().hash
