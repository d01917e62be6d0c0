"""Pictures that are drawn when somebody looks: what is kept, what is drawn, what fails."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from optuna.artifacts.exceptions import ArtifactNotFound
from PIL import Image

from search.data.images import Images
from search.display.dashboard.pictures import SHOWN_MISTAKES, Gallery, Picture, trial_pictures
from search.display.figures.curves import figure_learning_curves
from search.storage.checkpoints import artifact_store
from tests.conftest import candidates

CLASSES = ("cat", "dog", "owl")
HISTORY = [{"epoch": 1, "train_loss": 2.0, "validation_loss": 1.5, "accuracy": 0.5}]


def _pictures(logits: NDArray[np.float32], labels: list[int]) -> dict[str, Picture]:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 3), np.uint8)
    images = Images(pixels, np.array(labels, np.int64))
    (architecture,) = candidates(1, seed=3)
    made = trial_pictures(
        7, architecture, HISTORY, images, logits, CLASSES,
        target=0.9, limit=44, metric="accuracy",
    )  # fmt: skip
    return {picture.name: Picture.from_bytes(picture.to_bytes()) for picture in made}


def test_what_is_kept_is_what_the_network_answered() -> None:
    logits = np.array([[9, 0, 0], [0, 2, 0], [0, 5, 0], [0, 0, 1]], np.float32)
    kept = _pictures(logits, [0, 0, 2, 2])
    assert kept["confusion-matrix"].arrays["matrix"].tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1]]
    wrong = kept["misclassified"].arrays
    # The surest mistake first; e^5 / (e^5 + 2) and e^2 / (e^2 + 2).
    assert wrong["true"].tolist() == [2, 0]
    assert wrong["predicted"].tolist() == [1, 1]
    assert wrong["confidence"] == pytest.approx([0.98670, 0.78699], abs=1e-5)
    assert kept["learning-curves"].facts["runs"] == {"trial 7": HISTORY}


def test_curves_are_of_the_accuracy_that_the_search_went_by() -> None:
    rare = [{**HISTORY[0], "balanced_accuracy": 0.25}]
    figure = figure_learning_curves({"one": rare}, target=0.9, metric="balanced_accuracy")
    shares, _ = figure.axes
    assert shares.get_title(loc="left") == "Balanced accuracy on validation images"
    assert list(shares.lines[0].get_ydata()) == [0.25]


def test_many_mistakes_are_not_all_kept() -> None:
    kept = _pictures(np.tile(np.array([0, 1, 0], np.float32), (50, 1)), [0] * 50)
    assert len(kept["misclassified"].arrays["images"]) == SHOWN_MISTAKES


def test_every_picture_is_drawn_at_the_first_look(tmp_path: Path) -> None:
    store = artifact_store(tmp_path)
    for name, picture in _pictures(np.eye(3, dtype=np.float32), [0, 1, 1]).items():
        store.write(name, io.BytesIO(picture.to_bytes()))
        drawn = Gallery(store).open_reader(name).read()
        assert Image.open(io.BytesIO(drawn)).width > 500
        with Gallery(store).open_reader(name) as again:
            assert again.read() == drawn
    assert len(list((tmp_path / "artifacts").iterdir())) == 5, "nothing temporary is left"


def test_what_is_no_picture_passes(tmp_path: Path) -> None:
    gallery = Gallery(artifact_store(tmp_path))
    gallery.write("page", io.BytesIO(b"C1C4 is not all of the magic word"))
    with gallery.open_reader("page") as reader:
        assert reader.read() == b"C1C4 is not all of the magic word"
    gallery.remove("page")
    with pytest.raises(ArtifactNotFound):
        gallery.open_reader("page")


def test_a_picture_that_cannot_be_drawn_is_not_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gallery = Gallery(artifact_store(tmp_path))
    gallery.write("torn", io.BytesIO(Picture("architecture", {}).to_bytes()[:-9]))
    gallery.write("odd", io.BytesIO(Picture("portrait", {}).to_bytes()))
    for name in ("torn", "odd"):
        with pytest.raises(ArtifactNotFound):
            gallery.open_reader(name)
        assert f"artifact {name} cannot be drawn" in caplog.text
