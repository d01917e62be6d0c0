"""The sampler: one conformance suite over all kinds, then what each promises alone."""

from __future__ import annotations

import itertools
import math
import pickle
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from scipy.stats import chi2_contingency, qmc

from constraints import check
from search.analysis.facts import count_parameters
from search.config.files import parse
from search.config.sections import StudyConfig
from search.errors import ConfigError
from search.networks.architecture import Architecture
from search.proposals.cmaes import ReplayedCMAES
from search.proposals.inner import Seeds
from search.proposals.judged import JudgedProposals
from search.proposals.parameters import RejectedError, distributions, suggest
from search.proposals.proposer import ExhaustedError, InfeasibleError, Proposer
from search.proposals.sampler import SAMPLERS, FeasibleSampler, make_sampler
from search.storage.studies import create_or_resume, load_study, study_storage
from search.training.training import DivergedError
from search.workers.guarded import in_one_line
from tests.processes import ask

INPUT, CLASSES = (3, 32, 32), 10
KINDS = tuple(SAMPLERS)
TIGHT = {
    "block": {
        "depth": {"low": 1, "high": 3},
        "width": {"low": 16, "high": 96, "step": 8},
        "operator": ["dense", "separable"],
        "dilation": [1, 2],
    },
    "C1": {"depth": 1},
}
# 36 combinations, of which the rules leave some.
SMALL = {
    "block": {"depth": 1, "dilation": 1},
    "C2": {"depth": [1, 2, 3], "operator": ["dense", "separable"]},
    "C3": {"dilation": [1, 2], "depth": [1, 2, 3]},
}


def study_config(sampler: str = "random", space: Any = None, **study: Any) -> StudyConfig:
    limits = study.pop("limits", {"receptive_field": 90, "parameters": 120_000})
    return parse(
        {
            "study": {"name": "test", "sampler": sampler, "pruner": "none", **study},
            "space": space or TIGHT,
            "limits": limits,
        },
        "test",
    )


STRUCTURE = ("receptive_field", "downsampling", "depthwise_separable", "dilated")
SMALL_LIMITS = {"receptive_field": 44, "parameters": 200_000}


def small_config(sampler: str = "random", **study: Any) -> StudyConfig:
    return study_config(sampler, SMALL, limits=SMALL_LIMITS, **study)


def legal_points(config: StudyConfig) -> list[dict[str, Any]]:
    """Brute force over a space of lists."""
    names = list(config.parameters)
    grid = itertools.product(*(domain.values for domain in config.parameters.values()))
    points = [dict(zip(names, values, strict=True)) for values in grid]
    return [p for p in points if check(config.space.architecture(p), config.rules).accepted]


def create(config: StudyConfig, **kwargs: Any) -> optuna.Study:
    directions = ["maximize", "minimize"][: len(config.study.objectives)]
    sampler = make_sampler(config, INPUT, CLASSES)
    return optuna.create_study(directions=directions, sampler=sampler, **kwargs)


def goodness(trial: optuna.Trial, config: StudyConfig) -> float:
    """Cheap, and best for wide early blocks, a separable C4 and little depth."""
    candidate = suggest(trial, config, input=INPUT, classes=CLASSES)
    widths = [block.layers[-1].in_channels for block in candidate.architecture.blocks]
    depth = sum(len(block.units) for block in candidate.architecture.blocks)
    separable = any(layer.depthwise for layer in candidate.architecture.blocks[3].layers)
    return widths[0] / 32 + widths[1] / 64 - depth / 4 + separable


def run(config: StudyConfig, trials: int, study: optuna.Study | None = None) -> optuna.Study:
    study = study or create(config)
    study.optimize(lambda trial: goodness(trial, config), n_trials=trials)
    return study


def require_legal(study: optuna.Study, config: StudyConfig) -> None:
    for trial in study.trials:
        network = config.space.architecture(trial.params, input=INPUT, classes=CLASSES)
        assert check(network, config.rules).accepted
        assert trial.params.keys() == config.parameters.keys()


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


# ------------------------------------------------------------------------ conformance


@pytest.mark.parametrize("kind", KINDS)
def test_every_trial_is_legal_new_counted_and_repeatable(kind: str) -> None:
    config = study_config(kind)
    trials = 13
    study = run(config, trials)
    assert len(study.trials) == trials
    require_legal(study, config)
    assert len({trial.user_attrs["candidate"] for trial in study.trials}) == trials
    for trial in study.trials:
        rejected, proposals = trial.user_attrs["rejected"], trial.user_attrs["proposals"]
        assert proposals >= 1
        assert max(rejected.values(), default=0) < proposals
        expected = config.candidate(trial.params, input=INPUT, classes=CLASSES)
        assert trial.user_attrs["candidate"] == expected.hash
    assert sum(sum(trial.user_attrs["rejected"].values()) for trial in study.trials) > 0

    again = run(config, trials)
    assert [t.params for t in again.trials] == [t.params for t in study.trials]
    other = run(study_config(kind, seed=1), 3)
    assert [t.params for t in other.trials] != [t.params for t in study.trials[:3]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_study_goes_on_as_if_it_had_never_stopped(kind: str) -> None:
    config = study_config(kind)
    whole = run(config, 12)
    parted = run(config, 9)
    parted.sampler = make_sampler(config, INPUT, CLASSES)
    run(config, 3, parted)
    assert [t.params for t in parted.trials] == [t.params for t in whole.trials]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cmaes"])
def test_two_objectives(kind: str) -> None:
    config = study_config(kind, objectives=["accuracy", "parameters"])
    study = create(config)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        candidate = suggest(trial, config, input=INPUT, classes=CLASSES)
        return random.Random(trial.number).random(), count_parameters(candidate.architecture)

    study.optimize(objective, n_trials=13)
    require_legal(study, config)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_found_ends_with_the_reason(kind: str) -> None:
    config = study_config(kind, proposals=60, limits={"receptive_field": 5_000})
    study = create(config)
    with pytest.raises(InfeasibleError, match=r"60 proposals; receptive_field rejects 100\.0%"):
        run(config, 1, study)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]


@pytest.mark.parametrize("kind", KINDS)
def test_filled_networks_fill_their_budget(kind: str) -> None:
    config = study_config(
        kind,
        {**TIGHT, "fill": {"limit": "parameters", "from": 0.8}},
        limits={"parameters": 120_000},
    )
    study = run(config, 13)
    require_legal(study, config)
    for trial in study.trials:
        count = count_parameters(config.space.architecture(trial.params))
        assert 96_000 <= count < 120_000


@pytest.mark.parametrize("kind", ["tpe", "qmc"])
def test_in_a_database_under_a_pruner(kind: str, tmp_path: Any) -> None:
    config = study_config(kind)
    pruner = optuna.pruners.HyperbandPruner(max_resource=9)
    study = create(config, storage=f"sqlite:///{tmp_path}/study.db", study_name="s", pruner=pruner)
    run(config, 11, study)
    require_legal(study, config)
    assert len({trial.user_attrs["candidate"] for trial in study.trials}) == 11


# ---------------------------------------------------------------------------- no bias


@pytest.fixture(scope="module")
def truth() -> list[Architecture]:
    """Uniform over the feasible set by brute force: `check` with its table, no sampler."""
    config = study_config()
    rng = random.Random(99)
    uniform = (config.space.architecture(config.space.sample(rng)) for _ in itertools.count())
    legal = (network for network in uniform if check(network, config.rules).accepted)
    return list(itertools.islice(legal, 1_200))


def depth(network: Architecture) -> int:
    return sum(len(block.units) for block in network.blocks)


def operators(network: Architecture) -> tuple[bool, ...]:
    return tuple(any(layer.depthwise for layer in b.layers) for b in network.blocks)


def size(network: Architecture) -> int:
    return count_parameters(network) // 12_000


def same_distribution(found: list[Any], expected: list[Any]) -> float:
    """The p-value of the chi-square test that two samples come from one distribution."""
    table = np.array([Counter(found), Counter(expected)], dtype=object)
    rows = [[sample[key] for key in table[0] | table[1]] for sample in table]
    # Rare bins are one bin, so that the statistic follows its distribution.
    columns = np.array(rows).T
    common = columns[columns.sum(axis=1) >= 40]
    assert len(common) > 3
    rest = columns.sum(axis=0) - common.sum(axis=0)
    complete = np.vstack([common, rest]) if rest.all() else common
    return float(chi2_contingency(complete).pvalue)


@pytest.mark.parametrize("fact", [depth, operators, size])
def test_random_survivors_are_uniform_over_the_feasible_set(
    truth: list[Architecture], random_study: optuna.Study, fact: Any
) -> None:
    space = study_config().space
    ours = [fact(space.architecture(trial.params)) for trial in random_study.trials]
    assert same_distribution(ours, [fact(network) for network in truth]) > 0.01


@pytest.fixture(scope="module")
def random_study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = study_config(seed=4)
    study = create(config)
    study.optimize(
        lambda t: len(suggest(t, config, input=INPUT, classes=CLASSES).architecture.blocks),
        n_trials=1_000,
    )
    return study


def test_the_chi_square_notices_mended_proposals(truth: list[Architecture]) -> None:
    """The test above can fail: mending the first proposal of each trial is biased."""
    config = study_config()
    proposer = Proposer(config, INPUT, CLASSES)
    mended = []
    for seed in range(800):
        rng = random.Random(seed)
        proposals = JudgedProposals(proposer, rng, {}, lambda _: False)
        mended.append(config.space.architecture(proposals.mend(proposer.complete({}, rng))))
    p_values = [
        same_distribution([fact(n) for n in mended], [fact(n) for n in truth])
        for fact in (depth, operators, size)
    ]
    assert min(p_values) < 1e-4


# ------------------------------------------------------------------------- optimizing


@pytest.mark.parametrize("kind", ["tpe", "gp", "tpe+gp"])
def test_it_still_optimizes(kind: str) -> None:
    """Plain random search under the same rules is the measure."""
    seeds = range(3)
    trials = 40 if kind == "tpe" else 16
    taught = [run(study_config(kind, seed=seed), trials).best_value for seed in seeds]
    drawn = [run(study_config("random", seed=seed), trials).best_value for seed in seeds]
    assert np.mean(taught) > np.mean(drawn)
    assert min(taught) >= min(drawn)


def test_a_gaussian_process_learns_from_pruned_trials() -> None:
    """Until ten trials have ended its proposals are the uniform ones."""

    def proposed(kind: str) -> list[dict[str, Any]]:
        config = study_config(kind)

        def objective(trial: optuna.Trial) -> float:
            good = goodness(trial, config)
            trial.report(good, 1)
            if trial.number > 1:
                raise optuna.TrialPruned
            return good

        study = create(config)
        study.optimize(objective, n_trials=11)
        return [trial.params for trial in study.trials]

    taught, drawn = proposed("gp"), proposed("random")
    assert taught[:10] == drawn[:10]
    assert taught[10] != drawn[10]


def test_two_samplers_in_turn_learn_from_each_other() -> None:
    """Each trial is what the one whose turn it is proposes after the same trials of both."""
    study = run(study_config("tpe+gp"), 14)
    for number in range(14):
        config = study_config(("tpe", "gp")[number % 2])
        alone = create(config)
        alone.add_trials(study.trials[:number])
        assert run(config, 1, alone).trials[-1].params == study.trials[number].params
    drawn = run(study_config("random"), 12)
    same = [a.params == b.params for a, b in zip(study.trials, drawn.trials, strict=False)]
    assert same == [True] * 10 + [False] * 2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("cmaes", "grid")])
def test_an_infinite_cost_is_searched_without_a_word(
    kind: str, recwarn: pytest.WarningsRecorder
) -> None:
    config = study_config(kind, objectives=["accuracy", "pflop"], target=0.85)
    study = create(config)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        good = goodness(trial, config)
        return good, 0.03 if good > 1.5 else math.inf

    study.optimize(objective, n_trials=16)
    assert {math.isinf(trial.values[1]) for trial in study.trials} == {True, False}
    require_legal(study, config)
    assert [str(each.message) for each in recwarn] == []


# ------------------------------------------------------------------------ single kinds


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cmaes"])  # wants ranges
def test_a_small_space_is_visited_whole_and_ends(kind: str) -> None:
    config = small_config(kind)
    expected = legal_points(config)
    assert 5 < len(expected) < 36
    study = run(config, len(expected))
    visited = [trial.params for trial in study.trials]
    assert sorted(map(str, (sorted(p.items()) for p in visited))) == sorted(
        map(str, (sorted(p.items()) for p in expected))
    )
    with pytest.raises(ExhaustedError, match="no candidate is left"):
        run(config, 1, study)
    assert study.trials[-1].state is TrialState.FAIL


def test_trials_queued_with_some_values_take_no_point_from_the_grid() -> None:
    config = small_config("grid")
    expected = legal_points(config)
    study = create(config)
    name = next(iter(config.parameters))
    for point in expected[:3]:
        study.enqueue_trial({name: point[name]})
    run(config, len(expected), study)
    visited = {str(sorted(trial.params.items())) for trial in study.trials}
    assert visited == {str(sorted(point.items())) for point in expected}


def test_qmc_walks_the_sobol_sequence_without_gaps() -> None:
    config = study_config("qmc", seed=3)
    study = run(config, 12)
    proposals = sum(trial.user_attrs["proposals"] for trial in study.trials)
    notes = study._storage.get_study_system_attrs(study._study_id)
    assert notes["feasible:position"] == proposals
    space = {k: v for k, v in distributions(config).items() if not v.single()}
    engine = qmc.Sobol(len(space), rng=np.random.default_rng(3))
    points = engine.random(2 ** int(np.ceil(np.log2(proposals))))[:proposals]
    legal = []
    for point in points:
        choices = {}
        for (name, domain), u in zip(config.parameters.items(), point, strict=True):
            members = (
                domain.values
                if hasattr(domain, "values")
                else range(domain.low, domain.high + 1, domain.step)
            )
            choices[name] = members[int(u * len(members))]
        if check(config.space.architecture(choices), config.rules).accepted:
            legal.append(choices)
    assert [trial.params for trial in study.trials] == legal


def test_cmaes_and_grid_say_what_they_cannot_search() -> None:
    with pytest.raises(ConfigError, match="two ranges"):
        make_sampler(small_config("cmaes"), INPUT, CLASSES)
    with pytest.raises(ConfigError, match="one objective"):
        make_sampler(study_config("cmaes", objectives=["accuracy", "macs"]), INPUT, CLASSES)
    space = {**SMALL, "dropout": {"low": 0.0, "high": 0.5}}
    with pytest.raises(ConfigError, match=r"dropout.*real"):
        make_sampler(study_config("grid", space), INPUT, CLASSES)


def _sphere(trial: optuna.Trial) -> float:
    x, y = trial.suggest_float("x", -5, 5), trial.suggest_int("y", 1, 99)
    return -((x - 2) ** 2) - (y - 30) ** 2 / 400 - 0.1 * trial.suggest_categorical("z", [0, 1])


def _cmaes() -> ReplayedCMAES:
    proposer = Proposer(study_config(), INPUT, CLASSES)
    return ReplayedCMAES(
        Seeds(0, 0), JudgedProposals(proposer, random.Random(0), {}, lambda _: False)
    )


def test_the_replayed_state_of_cmaes_is_the_one_that_optuna_pickles() -> None:
    theirs = optuna.samplers.CmaEsSampler(seed=3, warn_independent_sampling=False)
    study = optuna.create_study(direction="maximize", sampler=theirs)
    study.optimize(_sphere, n_trials=40)
    kept = theirs._restore_optimizer(study.trials)
    space = optuna._transform._SearchSpaceTransform(
        {name: study.trials[0].distributions[name] for name in ("x", "y")}, transform_0_1=True
    )
    told = [t for t in study.trials if t.system_attrs.get("cma:generation", -1) < kept.generation]
    ours = _cmaes().replayed(space, told, -1)
    assert ours.generation == kept.generation > 4
    np.testing.assert_allclose(ours.mean, kept.mean, rtol=1e-12)
    np.testing.assert_allclose(ours._sigma, kept._sigma, rtol=1e-12)
    np.testing.assert_allclose(ours._C, kept._C, rtol=1e-12)


def test_a_late_trial_does_not_change_what_cmaes_was_told() -> None:
    study = optuna.create_study(sampler=optuna.samplers.CmaEsSampler(seed=3))
    study.optimize(lambda trial: -_sphere(trial), n_trials=20)
    space = optuna._transform._SearchSpaceTransform(
        {name: study.trials[0].distributions[name] for name in ("x", "y")}, transform_0_1=True
    )
    trials, late = study.trials, study.trials[1]
    late.number, late.values, late.datetime_complete = 0, [-1e6], trials[-1].datetime_complete
    before, after = (_cmaes().replayed(space, t, 1) for t in (trials, [late, *trials]))
    assert before.generation > 1
    np.testing.assert_array_equal(before.mean, after.mean)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_that_is_planted_in_a_study_is_not_run(kind: str, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "owned",)

    config = study_config(kind)
    study = run(config, 12)
    content = pickle.dumps(Hostile()).hex()
    for prefix in ("cma", "cmawm", "sepcma"):
        key = f"{prefix}:optimizer:0"
        study._storage.set_study_system_attr(study._study_id, key, content)
        waiting = study.ask()
        study._storage.set_trial_system_attr(waiting._trial_id, key, content)
        study.tell(waiting, goodness(waiting, config))
    run(config, 3, study)
    assert not (tmp_path / "owned").exists()
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}


class Stubborn(BaseSampler):
    """Proposes one and the same rejected point for ever."""

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        study._storage.set_trial_system_attr(trial._trial_id, "note", trial.number)
        return {name: _lowest(distribution) for name, distribution in search_space.items()}

    def sample_independent(self, *arguments: Any) -> Any:
        raise NotImplementedError


def _lowest(distribution: Any) -> Any:
    choices = getattr(distribution, "choices", None)
    return choices[0] if choices else distribution.low


def test_a_sampler_that_insists_on_a_rejected_point_is_mended() -> None:
    config = study_config()
    proposer = Proposer(config, INPUT, CLASSES)
    sampler = FeasibleSampler(proposer, lambda seeds, proposals: Stubborn(), patience=5)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    run(config, 10, study)
    require_legal(study, config)
    assert max(trial.user_attrs["proposals"] for trial in study.trials) < 1_500


# -------------------------------------------------------------------------- duplicates


def test_no_candidate_comes_twice_until_none_is_left() -> None:
    config = small_config(proposals=2_000)
    networks = {config.space.architecture(point).hash for point in legal_points(config)}
    study = run(config, len(networks))
    assert {config.space.architecture(t.params).hash for t in study.trials} == networks
    with pytest.raises(ExhaustedError, match="each legal one has its trial"):
        run(config, 1, study)


def test_a_space_of_more_points_than_proposals_ends_too() -> None:
    config = small_config(proposals=35)
    with pytest.raises(ExhaustedError, match="each legal one among 35 proposals in a row"):
        run(config, 36)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cmaes"])
def test_a_space_with_one_point_is_trained_once(kind: str) -> None:
    one = {"C2": {"operator": "separable", "dilation": 2}}
    config = study_config(kind, one, limits=SMALL_LIMITS, proposals=100)
    study = create(config)
    with pytest.raises(ExhaustedError, match="no candidate is left"):
        run(config, 2, study)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL]
    assert study.trials[0].user_attrs["proposals"] == 1


def test_the_candidate_of_a_failed_trial_may_come_again() -> None:
    config = small_config(proposals=2_000)
    count = len(legal_points(config))
    study = create(config)

    def objective(trial: optuna.Trial) -> float:
        suggest(trial, config, input=INPUT, classes=CLASSES)
        if trial.number == 0:
            raise ZeroDivisionError
        return 0.0

    study.optimize(objective, n_trials=count + 1, catch=ZeroDivisionError)
    hashes = Counter(trial.user_attrs["candidate"] for trial in study.trials)
    assert len(hashes) == count
    assert hashes[study.trials[0].user_attrs["candidate"]] == 2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cmaes"])  # wants ranges
def test_a_candidate_that_diverged_does_not_come_again(kind: str) -> None:
    config = small_config(kind)
    count = len(legal_points(config))
    study = create(config)

    def objective(trial: optuna.Trial) -> float:
        suggest(trial, config, input=INPUT, classes=CLASSES)
        if trial.number % 3 == 1:
            trial.set_user_attr("failure", in_one_line(DivergedError("loss is nan")))
            raise DivergedError
        return 0.0

    study.optimize(objective, n_trials=count, catch=DivergedError)
    assert len({trial.user_attrs["candidate"] for trial in study.trials}) == count
    with pytest.raises(ExhaustedError, match="no candidate is left"):
        run(config, 1, study)


@pytest.mark.parametrize("kind", ["tpe", "gp", "tpe+gp"])
def test_what_fails_is_not_sought(kind: str) -> None:
    """The best rates lie next to those that diverge, which are half of them."""
    rates = {"learning_rate": {"low": 1e-2, "high": 1e2, "log": True}}
    config = parse(
        {
            "study": {"name": "test", "sampler": kind, "seed": 1},
            "space": {"block": {"width": 8}},
            "limits": dict.fromkeys(STRUCTURE, "off"),
            "training": rates,
        },
        "test",
    )
    study = create(config)

    def objective(trial: optuna.Trial) -> float:
        recipe = suggest(trial, config, input=INPUT, classes=CLASSES).recipe
        trial.set_user_attr("architecture", {})
        if recipe.learning_rate > 1:
            raise ZeroDivisionError
        return recipe.learning_rate

    study.optimize(objective, n_trials=30, catch=ZeroDivisionError)
    failed = [trial.state is TrialState.FAIL for trial in study.trials]
    assert sum(failed[10:]) <= 10, "as uniform draws do"
    assert study.best_value > 0.8


def test_repeats_are_trials_of_their_own() -> None:
    config = small_config("grid", repeats=2)
    once = len(legal_points(small_config()))
    study = run(config, 2 * once)
    networks = Counter(config.space.architecture(t.params).hash for t in study.trials)
    assert set(networks.values()) == {2}


def test_a_running_trial_holds_its_candidate_against_another_worker(tmp_path: Any) -> None:
    config = small_config(proposals=2_000)
    count = len(legal_points(config))
    url = f"sqlite:///{tmp_path}/study.db"
    workers = [create(config, storage=url, study_name="s", load_if_exists=True) for _ in range(3)]
    trials = [workers[i % 3].ask() for i in range(count)]
    held = {suggest(t, config, input=INPUT, classes=CLASSES).hash for t in trials}
    assert len(held) == count


def test_of_two_claims_at_the_same_moment_the_later_trial_draws_again(monkeypatch: Any) -> None:
    """The other worker's claim lands between our look and our own claim."""
    config = small_config(proposals=2_000)
    study = create(config)
    rival = study.ask()
    storage = study._storage
    plain = storage.set_trial_user_attr
    claims: list[str] = []

    def with_rival(trial_id: int, key: str, value: Any) -> None:
        if key == "candidate" and trial_id != rival._trial_id:
            if not claims:
                plain(rival._trial_id, "candidate", value)
            claims.append(value)
        plain(trial_id, key, value)

    monkeypatch.setattr(storage, "set_trial_user_attr", with_rival)
    trial = study.ask()
    candidate = suggest(trial, config, input=INPUT, classes=CLASSES)
    assert claims[0] != candidate.hash
    assert set(claims[1:]) == {candidate.hash}
    assert study.trials[1].user_attrs["rejected"]["duplicate"] >= 1


@pytest.mark.parametrize("yields", [True, False])
def test_of_two_claims_at_the_same_moment_the_earlier_trial_waits_for_the_other(
    yields: bool, monkeypatch: Any
) -> None:
    """Until it sees that the other keeps it, which looked before the claims met."""
    config = small_config(proposals=2_000)
    study = create(config)
    storage = study._storage
    plain = storage.set_trial_user_attr
    claims: list[str] = []
    later: list[int] = []

    def with_rival(trial_id: int, key: str, value: Any) -> None:
        plain(trial_id, key, value)
        if key == "candidate":
            claims.append(value)
            if not later:
                later.append(storage.create_new_trial(study._study_id))
                plain(later[0], "candidate", value)

    def look(seconds: float) -> None:
        if yields:
            plain(later[0], "candidate", "another")

    monkeypatch.setattr(storage, "set_trial_user_attr", with_rival)
    monkeypatch.setattr("search.proposals.sampler.time.sleep", look)
    candidate = suggest(study.ask(), config, input=INPUT, classes=CLASSES)
    assert claims[-1] == candidate.hash
    assert len(set(claims)) == (1 if yields else 2)


@pytest.mark.parametrize("kind", ["qmc", "grid"])
def test_workers_that_propose_from_one_place_of_a_sequence_train_no_candidate_twice(
    kind: str, tmp_path: Path
) -> None:
    """What a worker notes of a trial waits for the end of its proposal; its claim does not."""
    config = small_config(kind)
    url = f"sqlite:///{tmp_path}/study.db"
    create_or_resume(config, url)
    first, second = (load_study("test", url) for _ in range(2))
    for study in (first, second):
        study.sampler = make_sampler(config, INPUT, CLASSES)
    trials = ask(first), ask(second)
    found = []
    with study_storage(first).together(), study_storage(second).together():
        found += [suggest(t, config, input=INPUT, classes=CLASSES).hash for t in trials]
    assert len(set(found)) == 2
    kept = load_study("test", url).trials
    assert [trial.user_attrs["candidate"] for trial in kept] == found
    assert [set(trial.params) for trial in kept] == [set(config.parameters)] * 2


# ------------------------------------------------------------------------ queued trials


def legal_and_not(config: StudyConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = random.Random(0)
    points = [config.space.sample(rng) for _ in range(500)]
    verdicts = [check(config.space.architecture(p), config.rules).accepted for p in points]
    return points[verdicts.index(True)], points[verdicts.index(False)]


@pytest.mark.parametrize("kind", KINDS)
def test_queued_trials_are_taken_as_they_are_or_refused(kind: str) -> None:
    config = study_config(kind, {**TIGHT, "fill": {"limit": "parameters", "from": 0.99}})
    legal, broken = legal_and_not(study_config(kind))
    study = create(config)
    study.enqueue_trial(legal)
    study.enqueue_trial(broken)
    study.optimize(lambda t: goodness(t, config), n_trials=2, catch=RejectedError)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL]
    assert study.trials[0].params == legal
    network = config.candidate(legal, input=INPUT, classes=CLASSES)
    assert study.trials[0].user_attrs["candidate"] == network.hash
    assert study.trials[0].user_attrs["proposals"] == 1
    study.enqueue_trial(broken)
    with pytest.raises(RejectedError, match=r"must|needed"):
        run(config, 1, study)


@pytest.mark.parametrize(
    ("key", "hint"), [("C4.widht", "did you mean C4.width?"), ("lr", "known: C1.width, ")]
)
def test_a_queued_trial_with_an_unknown_key_is_refused(key: str, hint: str) -> None:
    config = study_config("random")
    study = create(config)
    study.enqueue_trial({key: 40, "C4.width": 40})
    with pytest.raises(RejectedError, match=re.escape(f"{key} is no parameter of this study")) as e:
        run(config, 1, study)
    assert hint in str(e.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_partly_queued_trial_keeps_what_it_was_given(kind: str) -> None:
    config = study_config(kind)
    study = run(config, 12)
    given = {"C2.depth": 3, "C3.operator": "separable", "C4.width": 40}
    study.enqueue_trial(given)
    run(config, 1, study)
    require_legal(study, config)
    assert study.trials[-1].params | given == study.trials[-1].params


@pytest.mark.parametrize("kind", KINDS)
def test_a_partly_queued_trial_without_a_legal_network_ends_no_search(kind: str) -> None:
    config = study_config(kind, proposals=200)
    study = create(config)
    hopeless = {f"C{number}.dilation": 1 for number in (1, 2, 3, 4)}
    hopeless |= {f"C{number}.depth": 1 for number in (2, 3, 4)}  # a receptive field of 45
    study.enqueue_trial(hopeless)
    study.enqueue_trial(hopeless)
    study.optimize(lambda t: goodness(t, config), n_trials=1, catch=RejectedError)
    assert study.trials[0].state == TrialState.FAIL
    with pytest.raises(RejectedError, match=r"no candidate with C1.dilation=1, .* 200 proposals; "):
        run(config, 1, study)


def test_a_queued_value_outside_the_space_is_refused() -> None:
    config = study_config()
    legal, _ = legal_and_not(config)
    study = create(config)
    study.enqueue_trial({**legal, "C2.width": 33})
    with pytest.warns(UserWarning, match="out of range"), pytest.raises(RejectedError, match="33"):
        run(config, 1, study)


def test_a_value_drawn_after_the_check_is_refused() -> None:
    config = study_config()
    study = create(config)
    with pytest.raises(RuntimeError, match="none of this study"):
        study.optimize(lambda trial: trial.suggest_float("extra", 0, 1), n_trials=1)
