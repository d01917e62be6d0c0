from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.config.sections import DataSection
from search.data.datasets import Dataset, describe, load, load_test
from search.errors import ConfigError, MachineError
from tests.conftest import open_to_others


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten training and four test images, 12 x 12, of known colors."""
    for part, number in (("train", 10), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(number):
                color = (100 * label, 10 * index, 50)
                Image.new("RGB", (12, 12), color).save(tmp_path / part / name / f"{index}.png")
    return tmp_path


def _section(folder: Path, **more: object) -> DataSection:
    return DataSection.model_validate(
        {"kind": "imagefolder", "root": folder, "validation": 0.2, **more}
    )


def test_an_image_folder_is_read_as_it_lies(folder: Path) -> None:
    data = load(_section(folder))
    assert data.classes == ("cat", "dog")
    assert data.input == (3, 12, 12)
    assert (len(data.train), len(data.validation)) == (16, 4)
    for image, label in zip(data.train.pixels, data.train.labels, strict=True):
        assert (image[..., 0] == 100 * label).all()
        assert (image[..., 2] == 50).all()
    assert len(load_test(_section(folder))) == 8
    assert describe(_section(folder)) == ((3, 12, 12), 2)


@pytest.mark.usefixtures("open_umask")
def test_the_cache_is_for_its_owner_alone(folder: Path) -> None:
    before = set(open_to_others(folder))
    load(_section(folder))
    assert list(folder.glob(".train-*.npy"))
    assert set(open_to_others(folder)) == before


def test_it_is_decoded_once(folder: Path) -> None:
    first = load(_section(folder))
    cached = list(folder.glob(".train-*.npy"))
    assert len(cached) == 1
    stamp = cached[0].stat().st_mtime_ns
    assert (load(_section(folder)).train.pixels == first.train.pixels).all()
    assert cached[0].stat().st_mtime_ns == stamp
    Image.new("RGB", (12, 12), (7, 7, 7)).save(folder / "train" / "cat" / "new.png")
    assert len(load(_section(folder)).train) + len(load(_section(folder)).validation) == 21


def test_images_of_mixed_sizes_are_named_or_resized(folder: Path) -> None:
    Image.new("RGB", (20, 12)).save(folder / "train" / "cat" / "wide.png")
    with pytest.raises(ConfigError, match=r"wide\.png: 20x12 pixels"):
        load(_section(folder))
    assert load(_section(folder, image_size=16)).input == (3, 16, 16)


def test_a_truncated_image_is_named(folder: Path) -> None:
    path = folder / "train" / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ConfigError, match=r"3\.png: not a readable image"):
        load(_section(folder))


def test_a_class_without_images_is_named(folder: Path) -> None:
    (folder / "train" / "eel").mkdir()
    with pytest.raises(ConfigError, match="eel: a class without images"):
        load(_section(folder))


def test_classes_of_training_and_test_images_are_equal(folder: Path) -> None:
    (folder / "test" / "eel").mkdir()
    with pytest.raises(
        ConfigError, match=r"classes must be those of .*; only one of the two has eel$"
    ):
        load_test(_section(folder))


def test_a_missing_folder_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"train: no such directory.*data\.root"):
        load(_section(tmp_path))


def test_the_split_is_stratified_and_seeded(digits: Dataset) -> None:
    counts = np.bincount(digits.validation.labels) / np.bincount(digits.train.labels)
    assert counts.min() > 0.22
    assert counts.max() < 0.28
    again = load(DataSection(kind="digits", validation=0.2))
    other = load(DataSection(kind="digits", validation=0.2, seed=1))
    assert again.fingerprint == digits.fingerprint != other.fingerprint


@pytest.mark.parametrize("seed", range(3))
def test_a_rare_class_is_on_both_sides_of_each_split(folder: Path, seed: int) -> None:
    shutil.rmtree(folder / "test")
    for index in range(60):  # of three images a tenth is less than one
        Image.new("RGB", (12, 12), (9, 3 * index, 9)).save(folder / f"train/cat/{index + 10}.png")
    for index in range(3, 10):
        (folder / f"train/dog/{index}.png").unlink()
    split = _section(folder, validation=0.1, test=0.1, seed=seed)
    data, test = load(split), load_test(split)
    parts = (data.train, data.validation, test)
    assert [int((part.labels == 1).sum()) for part in parts] == [1, 1, 1]
    assert sum(map(len, parts)) == 73
    assert data.largest_class < 1
    many = load(_section(folder, validation=0.9, seed=seed))
    assert {0, 1} == set(many.train.labels) == set(many.validation.labels)


def test_a_share_that_cannot_hold_all_classes_is_refused_in_our_words(folder: Path) -> None:
    for share in (0.01, 0.99):
        with pytest.raises(
            ConfigError,
            match=rf"^data\.validation = {share}: of 20 images in 2 classes it must be from "
            r"0\.1 to 0\.9, so",
        ):
            load(_section(folder, validation=share))
    for share in (0.1, 0.9):
        load(_section(folder, validation=share))


def test_a_class_of_two_images_cannot_be_in_three_parts(folder: Path) -> None:
    shutil.rmtree(folder / "test")
    for index in range(2, 10):
        (folder / f"train/dog/{index}.png").unlink()
    with pytest.raises(ConfigError, match=r"class dog: training images: 2; .*one to test on$"):
        load(_section(folder, test=0.3))
    load(_section(folder))


def test_what_is_no_image_is_told_by_name(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "abcde":
        (folder / "train" / "cat" / f"{name}.txt").touch()
    (folder / "train" / "dog" / "f.txt").touch()
    load(_section(folder))
    assert (
        "cat: left out, for it is no image by its name: a.txt, b.txt, c.txt and 2 more"
        in caplog.text
    )
    assert caplog.text.rstrip().endswith("f.txt")


def test_training_validation_and_test_images_are_disjoint(digits: Dataset) -> None:
    parts = (digits.train, digits.validation, load_test(DataSection(kind="digits")))
    images = [{image.tobytes() for image in part.pixels} for part in parts]
    assert sum(len(part) for part in parts) == 1797
    # Two of the 1,797 scans could be equal; by and large they are not.
    assert len(images[0] & images[1]) + len(images[0] & images[2]) + len(images[1] & images[2]) < 3


def test_statistics_are_those_of_the_training_images(digits: Dataset) -> None:
    pixels = digits.train.pixels.astype(np.float64) / 255
    assert np.allclose(digits.mean, pixels.mean((0, 1, 2)), atol=1e-12)
    assert np.allclose(digits.std, pixels.std((0, 1, 2)), atol=1e-12)


def test_joined_images_are_all_of_them(digits: Dataset) -> None:
    joined = digits.joined()
    assert len(joined.train) == len(digits.train) + len(digits.validation)
    assert joined.fingerprint != digits.fingerprint
