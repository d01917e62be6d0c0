from __future__ import annotations

import random
import tomllib

import pytest

from search.config.files import parse
from search.presets import PRESETS, preset
from search.proposals.proposer import estimate
from tests.conftest import STUDIES


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_proposes_legal_networks(name: str) -> None:
    config = parse(tomllib.loads(preset(name)), name)
    assert config.study.name == name
    found = estimate(config, (3, 32, 32), 10, 200, random.Random(0))
    assert found.accepted


def test_the_quickstart_of_an_installation_is_that_of_the_repository() -> None:
    assert preset("quickstart") == (STUDIES / "quickstart.toml").read_text()
