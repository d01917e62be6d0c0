from __future__ import annotations

from typing import Any

import pytest
import yaml

from search.bundles.card import card, require_card
from search.bundles.contents import BundleError

METRICS: dict[str, Any] = {
    "study": "rare: # birds",
    "data": {"name": "torchvision"},
    "accuracy": {"test": 0.8574},
}


def test_the_hub_finds_task_and_accuracy() -> None:
    _, head, rest = card(METRICS).split("---\n")
    fields = yaml.safe_load(head)
    assert rest == "\n"
    assert fields["pipeline_tag"] == "image-classification"
    (model,) = fields["model-index"]
    assert model["name"] == "rare: # birds"
    (result,) = model["results"]
    assert result["dataset"]["name"] == "torchvision"
    assert result["metrics"] == [{"type": "accuracy", "value": 0.8574}]


def test_its_own_reader_takes_it() -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    (result,) = hub.ModelCard(card(METRICS) + "# A network").data.eval_results
    assert (result.task_type, result.metric_value) == ("image-classification", 0.8574)


def test_another_accuracy_than_that_of_metrics_json_is_named() -> None:
    readme = f"{card(METRICS)}# A network".encode()
    require_card(readme, METRICS)
    require_card(b"# A network of an older version", METRICS)
    with pytest.raises(BundleError, match="first lines say something else"):
        require_card(readme.replace(b"0.8574", b"0.9574"), METRICS)
