"""The pictures of a trial: kept as what they show, drawn when somebody looks.

Drawing five figures takes a second of a processor that could train.  So an artifact holds
the data of its picture until it is read for the first time, and the picture from then on.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from search.analysis.traced import network_of
from search.data.images import Images
from search.display.figures import curves, style
from search.display.figures.columns import growth
from search.display.figures.diagram import figure_architecture, figure_receptive_field
from search.display.figures.images import figure_misclassified
from search.networks.network import Network

log = logging.getLogger(__name__)

_MAGIC = b"C1C4-PICTURE\n"
SHOWN_MISTAKES = 16


@dataclass(frozen=True)
class Picture:
    """What a picture shows: `facts` fit into JSON, `arrays` hold numbers alone."""

    name: str
    facts: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def draw(self) -> Figure:
        """The picture."""
        return _DRAWN[self.name](self.facts, self.arrays)

    def to_bytes(self) -> bytes:
        """What an artifact holds until somebody looks."""
        buffer = io.BytesIO()
        text = json.dumps({"name": self.name, "facts": self.facts})
        np.savez(buffer, text=np.array(text), **self.arrays)  # type: ignore[arg-type]
        return _MAGIC + buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Picture:
        """What `to_bytes` made.

        Raises:
            ValueError: it was something else.
        """
        if not content.startswith(_MAGIC):
            raise ValueError("no picture")
        with np.load(io.BytesIO(content[len(_MAGIC) :]), allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
        return cls(**json.loads(str(arrays.pop("text"))), arrays=arrays)


def trial_pictures(
    number: int,
    network: Network,
    history: Sequence[Mapping[str, Any]],
    images: Images,
    logits: NDArray[np.float32],
    classes: Sequence[str],
    *,
    target: float | None,
    limit: float | None,
    metric: str,
) -> list[Picture]:
    """Those of a trial; `logits` (N, classes) are its answers to the validation `images`, and
    its receptive field must exceed `limit`.  `metric` is the accuracy that `target` is of."""
    sure, taken = softmax(logits, axis=1).max(axis=1), logits.argmax(axis=1)
    wrong = np.flatnonzero(taken != images.labels)
    worst = wrong[np.argsort(-sure[wrong])][:SHOWN_MISTAKES]
    described = network.to_json()
    field = Picture(
        "receptive-field",
        {"architecture": described, "limit": limit},
        {"image": images.pixels[0]},
    )
    return [
        Picture(
            "learning-curves",
            {
                "runs": {f"trial {number}": [dict(record) for record in history]},
                "target": target,
                "metric": metric,
            },
        ),
        Picture(
            "confusion-matrix",
            {"classes": list(classes)},
            {"matrix": confusion_matrix(images.labels, taken, labels=range(len(classes)))},
        ),
        Picture(
            "misclassified",
            {"classes": list(classes)},
            {
                "images": images.pixels[worst],
                "true": images.labels[worst],
                "predicted": taken[worst],
                "confidence": sure[worst],
            },
        ),
        Picture("architecture", {"architecture": described}),
        *([field] if growth(network) else []),
    ]


def _architecture(facts: Mapping[str, Any]) -> Figure:
    return figure_architecture(network_of(facts["architecture"]))


def _receptive_field(facts: Mapping[str, Any], image: style.Pixels) -> Figure:
    return figure_receptive_field(image, network_of(facts["architecture"]), facts["limit"])


_DRAWN: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Figure]] = {
    "learning-curves": lambda facts, arrays: curves.figure_learning_curves(**facts),
    "confusion-matrix": lambda facts, arrays: curves.figure_confusion_matrix(**facts, **arrays),
    "misclassified": lambda facts, arrays: figure_misclassified(**facts, **arrays),
    "architecture": lambda facts, arrays: _architecture(facts),
    "receptive-field": lambda facts, arrays: _receptive_field(facts, **arrays),
}


class Gallery:
    """An artifact store whose pictures are drawn when they are first read."""

    def __init__(self, store: FileSystemArtifactStore) -> None:
        self._store = store

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The artifact's file.

        Raises:
            ArtifactNotFound: there is none, or it cannot be drawn.
        """
        reader = self._store.open_reader(artifact_id)
        start = reader.read(len(_MAGIC))
        if start != _MAGIC:
            reader.seek(0)
            return reader
        with reader:
            content = start + reader.read()
        try:
            png = style.png(Picture.from_bytes(content).draw())
        except Exception as error:  # whatever a picture stumbles over, the page goes on
            log.warning("artifact %s cannot be drawn: %s", artifact_id, error)
            raise ArtifactNotFound(str(error)) from error
        _keep(Path(reader.name), png)
        return io.BytesIO(png)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._store.write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        self._store.remove(artifact_id)


def _keep(path: Path, png: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        temporary.write_bytes(png)
        temporary.replace(path)
    except OSError as error:  # a full disk, or one that is for reading only: drawn again next time
        log.warning("%s: %s", path, error.strerror)
