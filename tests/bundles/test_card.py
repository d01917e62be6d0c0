from __future__ import annotations

import pytest
import yaml

from search.bundles.card import card, require_card
from search.bundles.contents import BundleError
from search.bundles.metrics import Accuracy, read
from tests.bundles.conftest import COMMITTED

COMMITTED_METRICS = read((COMMITTED / "metrics.json").read_bytes())
METRICS = COMMITTED_METRICS.model_copy(
    update={
        "study": "rare: # birds",
        "data": COMMITTED_METRICS.data.model_copy(update={"name": "torchvision"}),
        "accuracy": Accuracy(test=0.8574, test_correct=8_574),
    }
)


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


def test_the_hub_finds_the_balanced_accuracy_where_it_is_stated() -> None:
    accuracy = METRICS.accuracy.model_copy(update={"test_balanced": 0.625})
    (model,) = yaml.safe_load(card(METRICS.model_copy(update={"accuracy": accuracy}))[4:-5])[
        "model-index"
    ]
    (result,) = model["results"]
    assert {each["type"]: each["value"] for each in result["metrics"]} == {
        "accuracy": 0.8574,
        "balanced_accuracy": 0.625,
    }


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


@pytest.mark.parametrize("start", [b"---\r\n", b"\n---\n", b" \t---\n", b"\xef\xbb\xbf---\n"])
def test_a_head_of_another_spelling_is_one(start: bytes) -> None:
    with pytest.raises(BundleError, match="first lines say something else"):
        require_card(start + b"model-index: []\n---\n# A network", METRICS)
