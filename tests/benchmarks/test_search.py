"""The bench of searches, on a landscape whose truth is a formula."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest

from benchmarks.landscape.recipes import CLASSES, INPUT, Job, drawn, network, settings, study
from benchmarks.landscape.table import VERSION, Header, Row, append, load
from benchmarks.search import world as worlds
from benchmarks.search.__main__ import main
from benchmarks.search.arms import ARMS, DEFAULT, KNOWN, RANDOM, Arm, Older, suggested
from benchmarks.search.document import document, interval
from benchmarks.search.simulation import Run, Step, begin_with, begun, simulate
from benchmarks.search.world import Landscape, World
from constraints import violations
from search.analysis.facts import count_macs
from search.domains import Scalar
from search.proposals.mutation import MUTATIONS

HEADER = Header(landscape=VERSION, images="0" * 16, settings=settings())


def true(choices: dict[str, Scalar]) -> float:
    """More computation is better; so is a smooth activation."""
    smooth = 0.05 * (choices["activation"] in ("gelu", "silu"))
    return 0.2 + 0.1 * math.log10(count_macs(network(choices)) / 1e5) + smooth


def trained(index: int, seed: int) -> Row:
    choices = drawn(index)
    job = Job("repeat" if seed else "random", index, "short", seed, choices)
    end = true(choices) + random.Random(f"{index} {seed}").gauss(0, 0.01)
    return Row(
        kind=job.kind,
        index=index,
        recipe="short",
        seed=seed,
        choices=choices,
        architecture=job.candidate.architecture.hash,
        candidate=job.candidate.hash,
        receptive_field=61,
        parameters=180_000,
        macs=count_macs(job.candidate.architecture),
        accuracies=(end / 2, end - 0.1, end - 0.05, end - 0.02, end),
        losses=(2.0, 1.8, 1.6, 1.5, 1.4),
        diverged=False,
        seconds=1.0,
        processor_seconds=1.0,
        device="cpu",
        versions={},
    )


def written(path: Path, networks: int, header: Header = HEADER, seeds: int = 3) -> Path:
    append(path, header)
    for index in range(networks):
        for seed in range(seeds if index % 10 == 0 else 1):
            append(path, trained(index, seed))
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("table") / "landscape.jsonl", 60)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worlds, "_POOL", 200)
        yield


@pytest.fixture(scope="module")
def landscape(table: Path) -> Landscape:
    return Landscape(load(table), "process")


def test_surrogate_finds_what_decides_and_the_noise_of_the_table(landscape: Landscape) -> None:
    assert 0.5 < landscape.surrogate.quality.spearman <= 1
    assert landscape.surrogate.quality.ceiling < 1
    assert landscape.noise == pytest.approx(0.01, rel=0.6)


@pytest.mark.parametrize("family", ["process", "forest"])
def test_worlds_agree_with_the_table_and_differ_where_it_is_silent(table: Path, family) -> None:
    landscape = Landscape(load(table), family)
    known = np.array([landscape.features(row.choices) for row in landscape.rows])
    unseen = landscape.pool[0][100:]
    drawn_worlds = [landscape.surrogate.truth(seed) for seed in range(4)]
    told = np.array([truth(known) for truth in drawn_worlds])
    guessed = np.array([truth(unseen) for truth in drawn_worlds])
    assert np.corrcoef(told.mean(axis=0), landscape.accuracies)[0, 1] > 0.9
    assert guessed.std(axis=0).min() > 0
    if family == "process":  # a forest does not know what it does not know
        assert told.std(axis=0).mean() < guessed.std(axis=0).mean()


def test_one_world_answers_the_same_each_time(landscape: Landscape) -> None:
    choices = drawn(3)
    candidate = study("short").candidate(choices, input=INPUT, classes=CLASSES)
    first, again, other = World(landscape, 1), World(landscape, 1), World(landscape, 2)
    reached = first.accuracy(choices, candidate)
    assert again.accuracy(choices, candidate) == reached != other.accuracy(choices, candidate)
    assert first.curve(reached, candidate) == again.curve(reached, candidate)
    assert len(first.curve(reached, candidate)) == 5


def test_the_noise_of_a_training_is_that_of_repeated_networks(landscape: Landscape) -> None:
    world = World(landscape, 0)
    config = study("short")
    ends = []
    for index in range(150):
        candidate = config.candidate(drawn(index), input=INPUT, classes=CLASSES)
        ends.append(world.curve(0.5, candidate)[-1])
    assert np.mean(ends) == pytest.approx(0.5, abs=0.005)
    assert np.std(ends) == pytest.approx(landscape.noise, rel=0.4)


@pytest.mark.parametrize(
    "name",
    [n for n, arm in ARMS.items() if arm.share == 1 and not arm.older and arm.given is None],
)
def test_every_arm_trains_legal_networks_and_pays_for_them(
    name: str, landscape: Landscape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.search.simulation.HORIZON", 12)
    world = World(landscape, 0)
    seen = []

    def watched(choices, candidate) -> float:
        seen.append(candidate)
        return 0.4

    monkeypatch.setattr(world, "accuracy", watched)
    run = simulate(ARMS[name], world, 5)
    rules = study("short").rules
    assert not any(violations(candidate.architecture, rules) for candidate in seen)
    assert len(run.steps) == len(seen) <= run.slots <= run.proposals
    whole = [c.pflop(5, 30_000) for c in seen]
    paid = np.diff([0.0, *(step.spent for step in run.steps)])
    shares = paid / whole
    assert all(share == pytest.approx(round(5 * share) / 5) for share in shares)
    pruned = [step.shown is None for step in run.steps]
    assert [share < 0.99 for share in shares] == pruned
    if ARMS[name].pruner == "none":
        assert not any(pruned)
    assert run.steps[-2].spent < 12 * world.training <= run.steps[-1].spent


def test_a_study_is_repeated_exactly(landscape: Landscape) -> None:
    world = World(landscape, 0)
    assert simulate(ARMS["nsga2, none"], world, 1) == simulate(ARMS["nsga2, none"], world, 1)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.search.simulation.HORIZON", 4)
    monkeypatch.setattr("benchmarks.search.simulation.OLDER", 12)


def test_a_study_begins_with_a_network_of_some_rank_and_with_mutations(
    landscape: Landscape,
) -> None:
    world, reached = World(landscape, 0), []
    for place in (0, KNOWN - 1):
        arm = Arm("tpe", "none", given=place)
        config, begins = arm.config(1), begun(arm, 1)
        begin_with(begins, config, world, place)
        trials = [begins.ask() for _ in range(1 + MUTATIONS)]
        choices = [suggested(trial, config) for trial in trials]
        candidates = [config.candidate(each, input=INPUT, classes=CLASSES) for each in choices]
        assert len({candidate.architecture for candidate in candidates}) == 1 + MUTATIONS
        reached.append(world.accuracy(choices[0], candidates[0]))
    assert reached[0] > reached[1] + 2 * landscape.noise


def test_a_study_begins_with_what_an_older_one_measured(landscape: Landscape, short: None) -> None:
    world = World(landscape, 0)
    arm = Arm("tpe", "none", older=Older(("limits.macs=10_000_000",)))
    run = simulate(arm, world, 1)
    assert len(run.taken) >= 5
    shown, true = np.array([(step.shown, step.true) for step in run.taken]).T
    assert shown == pytest.approx(true, abs=4 * landscape.noise)
    assert run.steps[0].spent > 0
    assert run.slots == len(run.steps) <= 12, "what was taken over cost this study nothing"


def test_a_study_exports_nothing_of_an_older_one_that_it_refutes(
    landscape: Landscape, short: None
) -> None:
    run = simulate(Arm("tpe", "asha", older=Older(misleads=True)), World(landscape, 0), 1)
    assert run.taken == []
    assert all(step.true < World(landscape, 0).middle for step in run.steps[:2])


def test_a_study_trains_the_best_of_an_older_one_on_other_images_first(
    landscape: Landscape, short: None
) -> None:
    world = World(landscape, 0)
    heirs = [
        simulate(Arm("random", "none", older=Older(misleads=misleads, known=True)), world, 1)
        for misleads in (False, True)
    ]
    kin, misled = (run.steps[0].true for run in heirs)
    assert kin > world.middle > misled
    assert [run.taken for run in heirs] == [[], []]


def test_arms_are_held_against_the_default_in_the_same_worlds(landscape: Landscape) -> None:
    class Flat(World):
        best_hundredth = 0.55

        def __init__(self) -> None:
            self.training = 1.0

    def found(after: float) -> Run:
        return Run([Step(1, 0.5, 0.5), Step(after, 0.6, 0.6)], slots=2, proposals=2)

    runs = {RANDOM: [found(60)] * 4, DEFAULT: [found(20)] * 3, "other": [found(30)] * 2}
    arms = document(landscape, [Flat()] * 4, runs)["arms"]
    assert arms["other"]["this_over_default"] == {"ratio": 1.5, "low": 1.5, "high": 1.5}
    assert arms["other"]["random_over_this"]["ratio"] == 2
    better = arms["other"]["better_than_default"]
    assert [better[n]["mean"] for n in ("25", "50", "100")] == pytest.approx([-0.1, 0, 0])
    assert arms[DEFAULT]["this_over_default"]["ratio"] == 1
    alone = document(landscape, [Flat()] * 4, {RANDOM: runs[RANDOM]})["arms"]
    assert "this_over_default" not in alone[RANDOM]


def test_what_a_run_found_and_would_export() -> None:
    run = Run([Step(1, 0.5, 0.6), Step(2, None, 0.9), Step(3, 0.7, 0.5), Step(4, 0.6, 0.8)])
    assert run.cost_to(0.55) == 1
    assert run.cost_to(0.75) == 4  # the pruned one was not trained to its end
    assert run.cost_to(0.85) is None
    assert [run.exported(spent) for spent in (0.5, 1, 2.5, 4)] == [None, 0.6, 0.6, 0.5]


def test_the_interval_of_a_mean_is_that_of_its_formula() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    mean, low, high = interval(values, np.mean)
    half = 1.96 * values.std() / math.sqrt(400)
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.15)


def test_command_prints_the_document(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("simulation", "document"):
        monkeypatch.setattr(f"benchmarks.search.{module}.HORIZON", 12)
    arms = ["--arms", "nsga2, none", "--studies", "3", "--kept", str(tmp_path)]
    assert main([str(table), "--json", *arms]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["networks"] == 60
    assert told["default"] == DEFAULT
    assert set(told["arms"]) == {"legal random", "nsga2, none"}
    for arm in told["arms"].values():
        assert set(arm["pflop_to_top1"]) == {"median", "low", "high"}
        assert set(arm["true_accuracy"]) == {"25", "50", "100"}
    assert told["arms"]["legal random"]["random_over_this"]["ratio"] == 1
    monkeypatch.delattr("benchmarks.search.__main__.simulate")  # what was kept is not run again
    assert main([str(table), *arms]) == 0
    assert "| nsga2, none | 3 |" in capsys.readouterr().out


def test_the_default_is_an_arm() -> None:
    assert ARMS[DEFAULT] == Arm(*DEFAULT.split(", "))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text(""), "is empty"),
        (lambda path: path.write_text("a,b\n1,2\n"), "not that of a landscape"),
        (lambda path: written(path, 30, HEADER.model_copy(update={"landscape": 2})), "version 2"),
        (lambda path: written(path, 30, HEADER.model_copy(update={"settings": "?"})), "of other"),
        (lambda path: written(path, 19), "has 19 networks"),
        (lambda path: written(path, 20, seeds=1), "second seed"),
        (lambda path: None, "cannot be read"),
    ],
)
def test_a_table_that_is_none(make, said: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "landscape.jsonl"
    make(path)
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
