from __future__ import annotations

import gzip
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from benchmarks.landscape import recipes
from benchmarks.landscape.__main__ import main
from benchmarks.landscape.plan import SEEDS, Request, jobs
from benchmarks.landscape.recipes import Job, Trainer, drawn, named
from benchmarks.landscape.table import CHANCE, Row, Table, append, load
from benchmarks.landscape.work import fill
from constraints import violations
from search.domains import Scalar
from search.errors import ConfigError
from search.training.training import EpochRecord, Training
from tests.landscape import row as trained

ROOT = Path(__file__).parent.parent.parent
COMMITTED = ROOT / "docs" / "results" / "landscape.jsonl.gz"
SMALL = Request(random=2, repeats=1, whole=0)  # two networks, one of them four times


@pytest.fixture(scope="module")
def augmented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("augmented")


@pytest.fixture(scope="module")
def trainer(images: Path, augmented: Path) -> Trainer:
    return Trainer(images, "cpu", augmented)


@pytest.fixture(scope="module")
def filled(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table that holds all of `SMALL`."""
    path = tmp_path_factory.mktemp("table") / "landscape.jsonl"
    assert len(list(fill(path, SMALL, trainer))) == 5
    return path


def told(row: Row) -> dict[str, object]:
    """What two trainings of one job have in common."""
    return row.model_dump(exclude={"seconds", "processor_seconds"})


def test_a_row_says_which_network_it_is(filled: Path) -> None:
    config = recipes.study("short")
    for row in load(filled, networks=2).rows:
        architecture = config.space.architecture(row.choices)
        assert architecture.hash == row.architecture
        assert not violations(architecture, config.rules)
        assert len(row.accuracies) == len(row.losses) == config.training.epochs
        assert row.receptive_field is not None
        assert row.receptive_field > 44
        assert 170_000 <= row.parameters < 200_000
        assert row.macs < 20_000_000


def test_a_table_knows_its_networks_and_its_noise(filled: Path) -> None:
    table = load(filled, networks=2)
    assert [row.index for row in table.first()] == [0, 1]
    (repeated,) = table.repeated().values()
    assert [row.seed for row in repeated] == [0, *SEEDS]
    assert len({row.losses for row in repeated}) == 4
    assert not table.first("whole")


def test_what_was_trained_is_not_trained_again(filled: Path, trainer: Trainer) -> None:
    assert not list(fill(filled, SMALL, trainer))


def test_an_interrupted_table_ends_as_one_that_was_not(
    filled: Path, trainer: Trainer, tmp_path: Path
) -> None:
    path = tmp_path / "landscape.jsonl"
    first = fill(path, SMALL, trainer)
    next(first)
    first.close()
    with path.open("ab") as file:
        file.write(b'{"kind":"random","ind')  # as a dying process leaves it
    rest = list(fill(path, SMALL, trainer))
    assert len(rest) == 4
    assert [told(row) for row in load(path, networks=2).rows] == [
        told(row) for row in load(filled, networks=2).rows
    ]


def test_a_training_that_another_process_has_claimed_is_left_to_it(
    trainer: Trainer, tmp_path: Path
) -> None:
    path = tmp_path / "landscape.jsonl"
    request = Request(random=2, repeats=0, whole=0)
    first = next(jobs(request, ()))
    claims = path.with_name("landscape.jsonl.claims")
    claims.mkdir()
    with FileLock(claims / f"short-{first.candidate.hash}.lock"):
        assert [row.index for row in fill(path, request, trainer)] == [1]
    assert [row.index for row in fill(path, request, trainer)] == [0]


def test_processes_share_a_table_and_leave_their_claims_when_they_are_killed(
    images: Path, trainer: Trainer, filled: Path, augmented: Path, tmp_path: Path
) -> None:
    (tmp_path / "augmented").symlink_to(augmented)  # what `filled` has made once
    path = tmp_path / "landscape.jsonl"
    command = [sys.executable, "-m", "benchmarks.landscape", str(images), f"--table={path}"]
    with subprocess.Popen([*command, "--repeats=0", "--per-gpu=2"], cwd=ROOT) as parent:
        while not path.exists() or path.read_bytes().count(b"\n") < 4:
            assert parent.poll() is None
            time.sleep(0.05)
        children = psutil.Process(parent.pid).children()
        parent.terminate()
    assert parent.returncode == 128 + signal.SIGTERM
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert (len(gone), alive) == (2, [])
    trained = {row.index for row in load(path, networks=0).rows}
    request = Request(random=len(trained) + 2, repeats=0, whole=0)
    added = [row.index for row in fill(path, request, trainer)]
    assert not trained & set(added)
    assert trained | set(added) >= set(range(request.random))
    candidates = [row.candidate for row in load(path, networks=0).rows]
    assert len(candidates) == len(set(candidates))


def test_a_checkpoint_goes_on_to_the_same_row(
    trainer: Trainer, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "CHECKPOINT_INTERVAL", 0)
    checkpoint = tmp_path / "a.checkpoint"
    run_epoch = Training.run_epoch

    def die_in_third(training: Training) -> EpochRecord:
        if training.epoch == 2:
            raise KeyboardInterrupt
        return run_epoch(training)

    job = Job("random", 0, "short", 0, drawn(0))
    with monkeypatch.context() as dying:
        dying.setattr(Training, "run_epoch", die_in_third)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(job, checkpoint)
    assert checkpoint.exists()
    assert told(trainer.train(job, checkpoint)) == told(load(filled, networks=2).rows[0])


def test_a_corrupt_checkpoint_costs_no_more_than_the_training(
    trainer: Trainer, filled: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "a.checkpoint"
    checkpoint.write_bytes(b"torn")
    row = trainer.train(Job("random", 0, "short", 0, drawn(0)), checkpoint)
    assert told(row) == told(load(filled, networks=2).rows[0])


def test_a_diverged_training_is_a_row(trainer: Trainer, tmp_path: Path) -> None:
    choices = {**drawn(0), "training.learning_rate": 1e30}
    row = trainer.train(Job("guided", None, "short", 0, choices), tmp_path / "none")
    assert row.diverged
    assert row.accuracy == CHANCE


def test_noise_is_measured_from_the_first_networks_on() -> None:
    order = [(job.kind, job.index, job.seed) for job in jobs(Request(40, 4, (), 0), ())]
    assert order[10:13] == [("repeat", 0, seed) for seed in SEEDS]
    assert Counter(kind for kind, _, _ in order) == {"random": 40, "repeat": 12}


def test_long_trainings_spread_over_the_ranks_of_the_first_half() -> None:
    request = Request(random=40, repeats=0, whole=4)
    rows = [trained(index, 0.5 + index / 100) for index in range(20)]
    assert not [job for job in jobs(request, rows[1:]) if job.recipe == "whole"]
    order = [(job.recipe, job.index) for job in jobs(request, rows)]
    # 0, .618, .236 and .854 of twenty ranks, each after five networks of the second half
    assert [i for recipe, i in order if recipe == "whole"] == [0, 12, 4, 17]
    assert [place for place, (recipe, _) in enumerate(order) if recipe == "whole"] == [
        25, 31, 37, 43,
    ]  # fmt: skip


def test_named_networks_come_with_the_rest() -> None:
    request = Request(random=1, repeats=0, named=(drawn(7),), whole=0)
    last = list(jobs(request, ()))[-1]
    assert (last.kind, last.index, last.choices) == ("guided", None, drawn(7))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"C1.kernel": 4}, "C1.kernel"),
        ({"C1.color": 4}, "C1.color"),
        ({"C1.depth": 3, "C1.width": 128, "C1.operator": "dense"}, "illegal network: parameters"),
    ],
)
def test_choices_of_no_legal_network_are_refused(change: dict[str, Scalar], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        named({**drawn(0), **change})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a,b\n1,2\n", "first line is not that of a landscape"),
        (b'{"landscape":2,"images":"","settings":""}\n', "is of version 2, but this program reads"),
        (b'{"landscape":1,"images":"","settings":""}\n{"kind":"chance"}\n', "line 2: kind"),
        (b'{"landscape":1,"images":"","settings":""}\n', "has 0 networks, but 20 are needed"),
    ],
)
def test_a_table_that_is_none_is_told_in_a_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "landscape.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_compressed_table_reads_the_same(filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "landscape.jsonl.gz"
    path.write_bytes(gzip.compress(filled.read_bytes()))
    assert load(path, networks=2) == load(filled, networks=2)
    path.write_bytes(filled.read_bytes())
    with pytest.raises(ConfigError, match="cannot be read as a landscape"):
        load(path)


@pytest.mark.parametrize("key", ["images", "settings"])
def test_a_table_of_others_is_refused_before_training(
    images: Path, filled: Path, trainer: Trainer, tmp_path: Path, key: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "landscape.jsonl"
    append(path, trainer.header.model_copy(update={key: "0123456789abcdef"}))
    assert main([str(images), "--table", str(path)]) == 2
    assert f"is of other {'images' if key == 'images' else 'choices'}" in capsys.readouterr().err


def test_a_row_whose_choices_mean_another_network_is_refused(
    filled: Path, trainer: Trainer, tmp_path: Path
) -> None:
    path = tmp_path / "landscape.jsonl"
    table: Table = load(filled, networks=2)
    append(path, table.header)
    append(path, table.rows[0].model_copy(update={"architecture": "0123456789abcdef"}))
    with pytest.raises(ConfigError, match="line 2: its choices mean another training now"):
        next(fill(path, SMALL, trainer))


def test_images_of_other_classes_are_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train").mkdir()
    for label in "01":
        (tmp_path / "train" / label).symlink_to(images / "train" / label)
    assert main([str(tmp_path), "--table", str(tmp_path / "t.jsonl")]) == 2
    assert "2 classes" in capsys.readouterr().err


def test_the_committed_table_is_of_this_program() -> None:
    table = load(COMMITTED)
    assert table.header.settings == recipes.settings()
    for row in table.rows:
        candidate = Job.of(row).candidate
        assert (candidate.architecture.hash, candidate.hash) == (row.architecture, row.candidate)
        assert row.index is None or row.choices == drawn(row.index)
    assert COMMITTED.stat().st_size < 3_000_000
