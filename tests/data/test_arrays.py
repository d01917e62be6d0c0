from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from search.config.sections import DataSection
from search.data.datasets import describe, load, load_test, without_test
from search.errors import ConfigError, MachineError

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (20, 8, 10, 3), np.uint8)
LABELS = np.arange(20) % 2


def _section(path: Path, **more: object) -> DataSection:
    return DataSection.model_validate({"kind": "npz", "root": path, "validation": 0.2, **more})


def _saved(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "mine.npz", **arrays)
    return folder / "mine.npz"


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (COLOR, (3, 8, 10)),
        (COLOR.transpose(0, 3, 1, 2), (3, 8, 10)),
        (COLOR[..., 0], (1, 8, 10)),
        (COLOR[..., :1], (1, 8, 10)),
    ],
    ids=["channels last", "channels first", "no channels", "one channel"],
)
def test_every_layout_is_the_same_images(
    images: np.ndarray, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    path = _saved(
        tmp_path, x_train=images, y_train=LABELS[:, None], x_test=images[:4], y_test=LABELS[:4]
    )
    data = load(_section(path))
    assert data.input == shape
    assert describe(_section(path)) == (shape, 2)
    known = {image.tobytes() for image in COLOR[..., : shape[0]]}
    assert {image.tobytes() for image in data.joined().train.pixels} == known
    assert (load_test(_section(path)).pixels == COLOR[:4, ..., : shape[0]]).all()


@pytest.mark.parametrize("names", [("x_val", "y_val"), ("val_images", "val_labels")])
def test_validation_images_of_its_own_are_those_that_judge(
    names: tuple[str, str], tmp_path: Path
) -> None:
    parts = {"train": COLOR[:12], "validation": COLOR[12:]}
    kin = ("x_train", "y_train") if names[0] == "x_val" else ("train_images", "train_labels")
    arrays = {kin[0]: parts["train"], kin[1]: LABELS[:12], names[0]: parts["validation"]}
    data = load(_section(_saved(tmp_path, **arrays, **{names[1]: LABELS[12:]})))
    assert (data.train.pixels == parts["train"]).all()
    assert (data.validation.pixels == parts["validation"]).all()
    assert (data.validation.labels == LABELS[12:]).all()
    assert not data.drawn


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"x_val": COLOR}, "no y_val, though it has the other"),
        ({"y_val": LABELS}, "no x_val, though it has the other"),
        ({"x_val": COLOR, "y_val": LABELS + 1}, r"y_val must lie in 0\.\.1, but is in 1\.\.2"),
        ({"x_val": COLOR, "y_val": LABELS * 0}, "class 1: validation images: 0"),
        (
            {"x_val": COLOR[:, :4], "y_val": LABELS},
            "validation images .* are .*4, 10, 3.*image_size",
        ),
    ],
    ids=["no labels", "no images", "an unknown class", "a class without any", "another size"],
)
def test_validation_images_that_cannot_judge_are_refused(
    arrays: dict[str, np.ndarray], problem: str, tmp_path: Path
) -> None:
    path = _saved(tmp_path, x_train=COLOR, y_train=LABELS, **arrays)
    with pytest.raises(ConfigError, match=problem):
        load(_section(path))


def test_names_of_medmnist_and_of_classes(tmp_path: Path) -> None:
    path = _saved(
        tmp_path,
        train_images=COLOR,
        train_labels=LABELS[:, None],
        test_images=COLOR,
        test_labels=LABELS[:, None],
        classes=np.array(["benign", "malignant"]),
    )
    assert load(_section(path)).classes == ("benign", "malignant")


def test_without_test_images_some_can_be_split_off(tmp_path: Path) -> None:
    path = _saved(tmp_path, x_train=COLOR, y_train=LABELS)
    assert "no x_test and no y_test: nothing can be exported" in without_test(_section(path))
    assert len(load_test(_section(path, test=0.2))) == 4


def test_test_images_of_another_size_are_told_before_the_search(tmp_path: Path) -> None:
    smaller = {"x_test": COLOR[:, :4], "y_test": LABELS}
    path = _saved(tmp_path, x_train=COLOR, y_train=LABELS, **smaller)
    reason = "are (4, 10, 3), but training images (8, 10, 3); --set data.image_size=N resizes"
    assert reason in without_test(_section(path))
    assert without_test(_section(path, image_size=8)) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"x_train": np.linspace(0, 1, COLOR.size).reshape(COLOR.shape)},
            "must be uint8, from 0 to 255, but are float64, from 0.0 to 1.0; scale and convert",
        ),
        ({"x_train": COLOR[:0], "y_train": LABELS[:0]}, "x_train holds no images"),
        ({"x_train": COLOR[:, :0]}, r"must have pixels, but are \(20, 0, 10, 3\)"),
        ({"y_train": np.array(1)}, r"one integer for each image, but is int64 \(\)"),
        ({"y_train": np.eye(2, dtype=int)[LABELS]}, r"one integer .* but is int64 \(20, 2\)"),
        ({"y_train": LABELS + 1}, r"must count the classes from 0, .* are in 1\.\.2"),
        ({"y_train": np.where(LABELS, 10**15, 0)}, r"must count .* are in 0\.\.1000000000000000"),
        ({"classes": np.array("ab")}, r"must be a list of names, as text, but is <U2 \(\)"),
        ({"classes": np.array([["a"], ["b"]])}, r"as text, but is <U1 \(2, 1\)"),
        ({"classes": np.array([b"a", b"b"])}, r"as text, but is \|S1 \(2,\)"),
        ({"classes": np.array(["a", "a"])}, "must be names, each another"),
        ({"classes": np.array(["a", ""])}, "must be names, each another"),
        ({"classes": np.array(["a", "\x1b[31m"])}, "all of characters that print"),
        ({"x_train": COLOR[..., :2]}, r"1 or 3 channels, but are \(20, 8, 10, 2\)"),
        ({"y_train": LABELS[:5]}, r"one integer for each image, but is int64 \(5,\)"),
        ({"y_train": LABELS / 2}, "one integer for each image, but is float64"),
        ({"y_train": LABELS - 1}, r"must count the classes from 0, .* are in -1\.\.0"),
        ({"classes": np.array(["one"])}, r"must lie in 0\.\.0, but is in 0\.\.1"),
        ({"y_train": np.array([{}] * 20)}, "not a readable .npz"),
    ],
)
def test_what_is_no_data_set_is_told(
    changes: dict[str, np.ndarray], words: str, tmp_path: Path
) -> None:
    path = _saved(tmp_path, **{"x_train": COLOR, "y_train": LABELS, **changes})
    with pytest.raises(ConfigError, match=f"mine.npz: .*{words}"):
        load(_section(path))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no such file"):
        load(_section(tmp_path / "none.npz"))
    np.save(tmp_path / "one.npy", COLOR)
    one = (tmp_path / "one.npy").read_bytes()
    for content in (b"", b"PK\3\4 cut off", b"text", one):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.npz: not a readable \.npz \(not whole"):
            load(_section(tmp_path / "bad.npz"))
    path = _saved(tmp_path, a=COLOR)
    with pytest.raises(ConfigError, match="must hold x_train and y_train, but holds a"):
        load(_section(path))


def test_one_class_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    path = _saved(tmp_path, x_train=COLOR, y_train=LABELS * 0, x_test=COLOR, y_test=LABELS * 0)
    with pytest.raises(ConfigError, match="only one class, 0; at least two are needed"):
        load(_section(path))


def test_images_and_labels_for_the_test_are_judged_like_those_for_training(tmp_path: Path) -> None:
    good = {"x_train": COLOR, "y_train": LABELS}
    for images, labels, words in (
        (COLOR[:0], LABELS[:0], "x_test holds no images"),
        (COLOR, LABELS + 1, r"y_test must lie in 0\.\.1, but is in 1\.\.2"),
        (COLOR[:1], LABELS, r"y_test must be one integer for each image"),
    ):
        path = _saved(tmp_path, **good, x_test=images, y_test=labels)
        with pytest.raises(ConfigError, match=words):
            load_test(_section(path))
    path = _saved(tmp_path, **good, x_test=COLOR[:1], y_test=LABELS[:1])
    assert len(load_test(_section(path))) == 1, "one image is one"
