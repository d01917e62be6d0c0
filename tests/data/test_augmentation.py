from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from search.config.files import parse
from search.config.sections import AugmentationSection
from search.data.augmentation import AugmentedEpochs, pipeline, require_fit
from search.data.datasets import Dataset
from search.errors import ConfigError, MachineError
from tests.conftest import open_to_others

MEAN = (0.5, 0.25, 0.75)


def _only(**active: float) -> AugmentationSection:
    off = {"flip_probability": 0.0, "affine_probability": 0.0, "hole_probability": 0.0}
    return AugmentationSection.model_validate({**off, **active})


def _epochs(data: Dataset, folder: Path, **changes: object) -> AugmentedEpochs:
    section = AugmentationSection.model_validate({"epochs": 2, **changes})
    return AugmentedEpochs(section, data.train.pixels, data.fingerprint, data.mean, folder)


@pytest.mark.usefixtures("open_umask")
def test_the_epochs_are_for_their_owner_alone(digits: Dataset, tmp_path: Path) -> None:
    _epochs(digits, tmp_path / "studies" / "augmented", epochs=1).epoch(0)
    assert list(tmp_path.rglob("*.0"))
    assert not open_to_others(tmp_path)


def test_the_pipeline_is_the_three_named_transforms() -> None:
    names = [type(t).__name__ for t in pipeline(AugmentationSection(), MEAN).transforms]
    assert names == ["HorizontalFlip", "ShiftScaleRotate", "CoarseDropout"]


def test_one_hole_of_the_mean_in_pixel_units() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    transform = pipeline(_only(hole_probability=1.0), MEAN, seed=0)
    for _ in range(20):
        result = transform(image=image)["image"]
        changed = (result != 0).any(-1)
        rows, columns = np.nonzero(changed)
        assert changed.sum() == 16 * 16
        assert np.ptp(rows) == np.ptp(columns) == 15
        assert np.abs(result[changed] - 255 * np.array(MEAN)).max() <= 1


def test_the_mask_is_not_filled() -> None:
    transform = pipeline(_only(hole_probability=1.0), MEAN, seed=0)
    mask = np.ones((32, 32), np.uint8)
    assert transform(image=np.zeros((32, 32, 3), np.uint8), mask=mask)["mask"].all()


def test_flips_mirror_half_of_the_images() -> None:
    image = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3).astype(np.uint8)
    transform = pipeline(_only(flip_probability=0.5), MEAN, seed=0)
    results = [transform(image=image)["image"] for _ in range(200)]
    flipped = [bool((r == image[:, ::-1]).all()) for r in results]
    assert all(f or (r == image).all() for f, r in zip(flipped, results, strict=True))
    assert 70 < sum(flipped) < 130


def test_shifts_stay_within_their_limit() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[16, 16] = 255
    section = _only(affine_probability=1.0, shift=0.09375, scale=0.0, rotate=0.0)
    transform = pipeline(section, MEAN, seed=0)
    results = [transform(image=image)["image"][..., 0] for _ in range(200)]
    moves = {int(result.argmax()) // 32 - 16 for result in results}
    assert moves == {-2, -1, 0, 1, 2}


def test_strength_zero_leaves_flips_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    section = AugmentationSection(
        flip_probability=0.0, affine_probability=1.0, hole_probability=1.0
    )
    transform = pipeline(section, MEAN, strength=0.0, seed=0)
    assert all((transform(image=image)["image"] == image).all() for _ in range(20))


def test_epochs_differ_and_images_are_augmented_one_by_one(digits: Dataset, tmp_path: Path) -> None:
    epochs = _epochs(digits, tmp_path, hole_probability=1.0)
    first, second = epochs.epoch(0), epochs.epoch(1)
    assert first.shape == digits.train.pixels.shape
    assert (first != second).any((1, 2, 3)).mean() > 0.9
    holes = (first != digits.train.pixels).any((0, 3))
    assert holes.all(), "one hole for all images would leave most pixels as they were"
    assert (epochs.epoch(2) == first).all(), "two are made, and read by turns"


def test_processes_and_restarts_make_the_same_bytes(digits: Dataset, tmp_path: Path) -> None:
    alone, together = _epochs(digits, tmp_path / "a"), _epochs(digits, tmp_path / "b")
    assert alone.path.name == together.path.name
    together.start(processes=2).join()
    assert together.made == 2
    assert (alone.epoch(0) == together.epoch(0)).all()
    assert (alone.epoch(1) == together.epoch(1)).all()


def test_four_users_at_once_make_each_epoch_once(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, made = type(pipeline(AugmentationSection(), MEAN)), list[object]()
    augment = kind.__call__

    def counted(compose: object, **given: object) -> object:
        made.append(given)
        return augment(compose, **given)

    monkeypatch.setattr(kind, "__call__", counted)
    epochs = [_epochs(digits, tmp_path) for _ in range(4)]
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda e=e: results.append(e.epoch(0))) for e in epochs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all((result == results[0]).all() for result in results)
    assert len(made) == len(digits.train)


def test_flips_by_turns(digits: Dataset, tmp_path: Path) -> None:
    changes = {"affine_probability": 0.0, "hole_probability": 0.0, "alternate_flips": True}
    epochs = _epochs(digits, tmp_path, **changes, epochs=3)
    images = digits.train.pixels
    plain = [(epochs.epoch(index) == images).all((1, 2, 3)) for index in range(3)]
    mirrored = [(epochs.epoch(index) == images[:, :, ::-1]).all((1, 2, 3)) for index in range(3)]
    symmetric = (images == images[:, :, ::-1]).all((1, 2, 3))
    assert all((p ^ m | symmetric).all() for p, m in zip(plain, mirrored, strict=True))
    assert (plain[0] == mirrored[1])[~symmetric].all()
    assert (plain[0] == plain[2]).all()
    assert 0.45 < plain[0].mean() < 0.55


def test_flips_by_turns_are_half_of_the_images() -> None:
    with pytest.raises(ValueError, match=r"flip_probability must be 0\.5, but is 0"):
        AugmentationSection(alternate_flips=True, flip_probability=0.0)


ENDING = """
import atexit, pathlib, sys, time
import numpy as np
import psutil
from search.config.files import parse
from search.config.sections import AugmentationSection
from search.data.augmentation import AugmentedEpochs

pixels = np.zeros((1000, 8, 8, 3), np.uint8)
section = AugmentationSection(epochs=1000, hole=2)
epochs = AugmentedEpochs(section, pixels, "none", (0.5,) * 3, pathlib.Path(sys.argv[1]))
atexit.register(time.sleep, 2)
epochs.start(processes=1)
while not epochs.made:
    time.sleep(0.05)
if sys.platform == "linux":
    for process in psutil.Process().children(recursive=True):
        print(*(library.path for library in process.memory_maps()), sep="\\n")
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    folder, root = tmp_path_factory.mktemp("ending"), str(Path(__file__).parents[2])
    script = folder / "ending.py"
    script.write_text(ENDING)
    command = [sys.executable, str(script), str(folder)]
    return subprocess.run(
        command, cwd=root, env={"PYTHONPATH": root}, capture_output=True, text=True, check=False
    )


def test_a_script_without_a_guard_ends_meanwhile_and_says_nothing_of_it(
    ended: subprocess.CompletedProcess[str],
) -> None:
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="others do not tell what a process has loaded")
def test_the_processes_load_no_torch(ended: subprocess.CompletedProcess[str]) -> None:
    assert "/cv2/" in ended.stdout
    assert "/torch/" not in ended.stdout


@pytest.mark.parametrize("change", [{"seed": 1}, {"rotate": 11.0}, {"epochs": 3}])
def test_another_policy_is_another_file(
    digits: Dataset, tmp_path: Path, change: dict[str, object]
) -> None:
    assert _epochs(digits, tmp_path, **change).path != _epochs(digits, tmp_path).path


def test_a_disk_that_does_not_take_them_is_named(digits: Dataset, tmp_path: Path) -> None:
    section = AugmentationSection(epochs=1000)
    pixels = np.broadcast_to(digits.train.pixels[0], (10**9, 32, 32, 3))  # 3 PB
    epochs = AugmentedEpochs(section, pixels, digits.fingerprint, digits.mean, tmp_path)
    with pytest.raises(MachineError, match=r"uint8: .*need 3,072,000,000 MB"):
        epochs.epoch(0)
    assert not epochs.path.exists()


def test_a_folder_that_cannot_be_made_is_named(digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="file/cache"):
        _epochs(digits, tmp_path / "file" / "cache").epoch(0)


def test_a_directory_in_their_place_is_no_full_disk(digits: Dataset, tmp_path: Path) -> None:
    epochs = _epochs(digits, tmp_path)
    epochs.path.mkdir()
    with pytest.raises(MachineError, match=r"uint8: Is a directory; .* belong there$"):
        epochs.epoch(0)


def test_a_link_in_their_place_is_replaced_and_its_target_is_not(tmp_path: Path) -> None:
    pixels = np.full((8, 16, 16, 3), 7, np.uint8)
    epochs = AugmentedEpochs(_only(epochs=1), pixels, "none", MEAN, tmp_path)
    target = tmp_path / "precious"
    target.write_text("mine")
    epochs.path.symlink_to(target)
    assert (epochs.epoch(0) == 7).all()
    assert target.read_text() == "mine"
    assert not epochs.path.is_symlink()


def _cut_off(file: Path) -> None:
    os.truncate(file, 1_000)


def _fill_with_noise(file: Path) -> None:
    file.write_bytes(np.random.default_rng(0).bytes(file.stat().st_size))


def _fill_with_zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def _move_the_bytes(file: Path) -> None:
    content = file.read_bytes()
    half = len(content) // 2
    file.write_bytes(content[half:] + content[:half])


def _forget_the_digest(file: Path) -> None:
    file.with_suffix(".0").write_bytes(b"")  # as it was before it was one


DAMAGES = [
    Path.unlink,
    _cut_off,
    _fill_with_noise,
    _fill_with_zeros,
    _move_the_bytes,
    _forget_the_digest,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_what_was_made_is_made_again(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    section = AugmentationSection(epochs=2, hole=4)
    epochs = AugmentedEpochs(section, pixels, "none", MEAN, tmp_path)
    first, second = (epochs.epoch(index) for index in (0, 1))
    assert not caplog.messages
    damage(epochs.path)
    assert (epochs.epoch(0) == first).all()
    assert (epochs.epoch(1) == second).all()
    assert "does not hold epoch 0 any more: made again" in caplog.messages[0]
    caplog.clear()
    epochs.start(processes=1).join()
    assert (epochs.epoch(0) == first).all()
    assert not caplog.messages


def test_a_file_that_is_cut_off_under_a_reader_ends_nobody(tmp_path: Path) -> None:
    pixels = np.full((500, 32, 32, 3), 7, np.uint8)
    epochs = AugmentedEpochs(_only(epochs=1), pixels, "none", MEAN, tmp_path)
    held = epochs.epoch(0)
    os.truncate(epochs.path, 0)
    assert (held == 7).all()
    assert (epochs.epoch(0) == 7).all()


def _with_extra(*extra: dict[str, object]) -> AugmentationSection:
    return AugmentationSection.model_validate({"extra": extra})


def test_extra_transforms_come_after_the_three() -> None:
    section = _with_extra({"name": "ToGray", "p": 1.0}, {"name": "InvertImg", "p": 1.0})
    names = [type(t).__name__ for t in pipeline(section, MEAN).transforms]
    assert names[3:] == ["ToGray", "InvertImg"]
    off = {"flip_probability": 0.0, "affine_probability": 0.0, "hole_probability": 0.0}
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    result = pipeline(section.model_copy(update=off), MEAN, seed=0)(image=image)["image"]
    luminance = image @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert np.abs(result - (255 - luminance[..., None])).max() <= 1


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"name": "ColourJitter"}, "albumentations has no transform ColourJitter"),
        ({"name": "Compose"}, "albumentations has no transform Compose"),
        ({"name": "ColorJitter", "bright": 1}, r"ColorJitter: Argument\(s\) 'bright'"),
        ({"name": "ColorJitter", "p": 3}, r"ColorJitter: p: .*less than or equal to 1 \(got 3\)"),
        ({"name": "RandomCrop", "height": 24}, "RandomCrop: width: Field required"),
    ],
)
def test_a_transform_that_cannot_be_built_is_told_at_load(
    extra: dict[str, object], words: str
) -> None:
    raw = {"study": {"name": "a"}, "augmentation": {"extra": [extra]}}
    with pytest.raises(ConfigError, match=rf"augmentation\.extra\.0: {words}") as caught:
        parse(raw, "a.toml")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"name": "RandomCrop", "height": 24, "width": 24}, r"makes uint8 \(24, 24, 3\) of them"),
        ({"name": "RandomCrop", "height": 40, "width": 40}, "fails on them"),
        ({"name": "Normalize"}, r"makes float32 \(32, 32, 3\) of them"),
    ],
)
def test_what_makes_no_image_of_that_shape_is_refused(extra: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"augmentation\.extra: .* {extra['name']} {words}"):
        require_fit(_with_extra(extra), (3, 32, 32))
    require_fit(_with_extra({"name": "ColorJitter"}), (3, 32, 32))


@pytest.mark.parametrize("pixels", [8, 15])
def test_a_hole_must_fit_where_one_is_ever_cut(pixels: int) -> None:
    shape, image = (3, pixels, pixels), np.zeros((pixels, pixels, 3), np.uint8)
    with pytest.raises(ConfigError, match=f"hole = 16: larger than the images.*{pixels}x{pixels}"):
        require_fit(_only(hole_probability=0.1), shape)
    require_fit(_only(), shape)
    assert pipeline(_only(), MEAN)(image=image)["image"].shape == image.shape


def test_extra_transforms_make_another_file_and_none_leaves_its_name(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)

    def made(section: AugmentationSection) -> AugmentedEpochs:
        return AugmentedEpochs(section, pixels, "none", MEAN, tmp_path)

    plain, extra = made(AugmentationSection()), made(_with_extra({"name": "InvertImg", "p": 1.0}))
    assert plain.path.stem == "242cdf2e6a00afb7", "epochs that were made before this was a choice"
    other = made(_with_extra({"name": "InvertImg", "p": 0.5}))
    assert len({plain.path, extra.path, other.path}) == 3
    assert (extra.epoch(0) == 255 - plain.epoch(0)).all()


def test_a_gray_image_keeps_its_one_channel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 24, 24, 1), np.uint8)
    section = AugmentationSection(hole_probability=1.0, epochs=1)
    epochs = AugmentedEpochs(section, pixels, "none", (0.25,), tmp_path)
    assert epochs.epoch(0).shape == pixels.shape
    assert (epochs.epoch(0) != pixels).any((1, 2, 3)).all()
