"""The head of a bundle's `README.md` as the Hugging Face Hub reads it, so that the folder can be
pushed there as it is (huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import json
import re

from search.bundles.contents import BundleError
from search.bundles.metrics import Metrics

_FENCE = "---\n"
_HEAD = re.compile(rb"(\xef\xbb\xbf)?\s*---[\r\n]")  # as the Hub finds one


def card(metrics: Metrics) -> str:
    """YAML between two fences: the task, and the accuracy on the test images of `metrics.json`."""
    name, images = metrics.study, metrics.data.name
    task = "image-classification"
    told = {"accuracy": metrics.accuracy.test, "balanced_accuracy": metrics.accuracy.test_balanced}
    result = {
        "task": {"type": task},
        "dataset": {"name": images, "type": images, "split": "test"},
        "metrics": [{"type": k, "value": share} for k, share in told.items() if share is not None],
    }
    # JSON is YAML.
    index = json.dumps([{"name": name, "results": [result]}])
    fields = f"library_name: pytorch\npipeline_tag: {task}\nmodel-index: {index}\n"
    return f"{_FENCE}{fields}{_FENCE}\n"


def require_card(readme: bytes, metrics: Metrics) -> None:
    """Older bundles have no such head.

    Raises:
        BundleError: the head says something else than `metrics.json`.
    """
    if _HEAD.match(readme) and not readme.startswith(card(metrics).encode()):
        raise BundleError("README.md's first lines say something else than metrics.json")
