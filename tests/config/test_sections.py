from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.config.files import load, parse
from search.errors import ConfigError


def test_each_strength_of_augmentation_is_a_file_so_there_are_few() -> None:
    given = {"study": {"name": "s"}, "augmentation": {"strength": [0.5, 1.0]}}
    assert "augmentation.strength" in parse(given, "study.toml").parameters
    given["augmentation"] = {"strength": {"low": 0.5, "high": 1.0}}
    with pytest.raises(ConfigError, match=r"strength.*one value or a list of choices"):
        parse(given, "study.toml")


@pytest.mark.parametrize("rule", ["arena_bytes", "flash_bytes"])
def test_activations_that_a_microcontroller_lacks_are_named_before_anything_is_proposed(
    tmp_path: Path, rule: str
) -> None:
    path = tmp_path / "study.toml"
    path.write_text('[study]\nname = "s"\n')
    limit = f"limits.{rule}=80_000"
    with pytest.raises(ConfigError, match=f"has no gelu, and {rule} .* can be relu, relu6"):
        load(path, [limit, "space.activation=gelu"])
    assert load(path, [limit, 'space.activation=["relu", "gelu"]']).lacking == ("gelu",)
    assert load(path, [limit, "space.activation=relu"]).lacking == ()
    assert load(path, ["space.activation=gelu"]).lacking == ()


@pytest.mark.parametrize(
    ("study", "pruner"),
    [
        ({}, "median"),
        ({"objectives": ["accuracy"]}, "median"),
        ({"objectives": ["accuracy", "macs"]}, "none"),
        ({"objectives": ["accuracy", "pflop"], "target": 0.9}, "none"),
        ({"objectives": ["accuracy"], "pruner": "asha"}, "asha"),
    ],
)
def test_a_study_that_names_no_pruner_has_one_where_it_has_one_objective(
    study: dict[str, Any], pruner: str
) -> None:
    assert parse({"study": {"name": "pruned", **study}}, "test").study.pruner == pruner
