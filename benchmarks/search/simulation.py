"""One study from its first trial until its PFLOP are spent, nothing trained."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field, replace

import optuna
from optuna.trial import TrialState

from benchmarks.landscape.recipes import CLASSES, INPUT
from benchmarks.search.arms import KNOWN, Arm, Older
from benchmarks.search.world import IMAGES, World
from search.config.candidate import Candidate
from search.config.sections import StudyConfig
from search.proposals.inheritance import inherit
from search.proposals.judged import JudgedProposals
from search.proposals.mutation import begin
from search.proposals.proposer import Proposer
from search.storage.refuted import borne_out
from search.storage.trials import Attributes, candidate_of, is_taken, write
from search.workers.objective import make_pruner

HORIZON = 100  # trainings' worth of PFLOP
OLDER = 50  # the same, of a study that another one begins with
_OTHER = 1_000_000  # to its seed, so that it draws otherwise


@dataclass(frozen=True)
class Step:
    """A trial that trained: PFLOP that the study had spent at its end, what it showed, None if
    it was pruned, and what its network truly reaches."""

    spent: float
    shown: float | None
    true: float


@dataclass
class Run:
    """A whole study.  `slots` are its trials, legal or not, `proposals` all that it drew;
    `taken` are the completed ones of an older study that it bears out, which cost it nothing."""

    steps: list[Step] = field(default_factory=list)
    taken: list[Step] = field(default_factory=list)
    slots: int = 0
    proposals: int = 0

    def cost_to(self, accuracy: float) -> float | None:
        """PFLOP until a training of a network that truly reaches `accuracy` was finished."""
        found = (s.spent for s in self.steps if s.shown is not None and s.true >= accuracy)
        return next(found, None)

    def exported(self, spent: float) -> float | None:
        """What the network that the study would export after so many PFLOP truly reaches."""
        done = [s for s in self.taken + self.steps if s.shown is not None and s.spent <= spent]
        return max(done, key=lambda step: step.shown or 0.0).true if done else None


def described(trial: optuna.Trial, candidate: Candidate) -> None:
    """Gives the trial what a study tells a candidate by."""
    architecture, recipe = candidate.architecture.to_json(), asdict(candidate.recipe)
    write(trial, Attributes(architecture=architecture, recipe=recipe, verdict="accepted"))


def simulate(arm: Arm, world: World, seed: int) -> Run:
    """The study of that arm in that world; it ends when as much is spent as `HORIZON` mean
    trainings cost."""
    study, config = begun(arm, seed), arm.config(seed)
    if arm.older:
        take_over(study, config, world, arm.older)
    if arm.given is not None:
        begin_with(study, config, world, arm.given)
    run = search(study, arm, world, config, HORIZON)
    taken = [
        Step(0.0, trial.value, world.accuracy(trial.params, candidate_of(trial)))
        for trial in borne_out(study.get_trials(deepcopy=False))
        if is_taken(trial) and trial.state is TrialState.COMPLETE
    ]
    return replace(run, taken=taken)


def take_over(study: optuna.Study, config: StudyConfig, world: World, told: Older) -> None:
    """Gives the study what an older one found out in its first `OLDER` trainings."""
    seed = config.study.seed + _OTHER
    settings = told.arm.config(seed)
    older = begun(told.arm, seed)
    older.set_user_attr("config", settings.model_dump(mode="json", by_alias=True))
    older.set_user_attr("data", {"images": "others" if told.known else "these"})
    search(older, told.arm, world.opposite if told.misleads else world, settings, OLDER)
    inherit(older, config, INPUT, CLASSES, {"images": "these"}).give(study)


def begin_with(study: optuna.Study, config: StudyConfig, world: World, place: int) -> None:
    """Queues the network of that place among `KNOWN` uniform ones, and its mutations."""
    rng = random.Random(config.study.seed)
    proposer = Proposer(config, INPUT, CLASSES)
    draws = JudgedProposals(proposer, rng, {}, lambda _: False)
    known = [draws.uniform() for _ in range(KNOWN)]
    known.sort(key=lambda each: world.accuracy(each, draws.candidate(each)), reverse=True)
    start = {name: known[place][name] for name in config.space.parameters}
    begin(study, start, proposer, rng)


def begun(arm: Arm, seed: int) -> optuna.Study:
    """The study of that arm, in memory, without a trial."""
    config = arm.config(seed)
    return optuna.create_study(
        direction="maximize",
        study_name=f"simulated {seed}",
        sampler=arm.built(config),
        pruner=make_pruner(config),
    )


def search(
    study: optuna.Study, arm: Arm, world: World, config: StudyConfig, trainings: float
) -> Run:
    """Gives the study trials until as much is spent as so many mean trainings cost."""
    run, budget, spent = Run(), trainings * world.training, 0.0

    def objective(trial: optuna.Trial) -> float:
        nonlocal spent
        choices = arm.choices(trial, config)
        candidate = config.candidate(choices, input=INPUT, classes=CLASSES)
        described(trial, candidate)
        true = world.accuracy(choices, candidate)
        curve = world.curve(true, candidate)
        whole = candidate.pflop(len(curve), len(curve) * IMAGES)
        for epoch, accuracy in enumerate(curve, 1):
            spent += whole / len(curve)
            trial.report(accuracy, epoch)
            if epoch < len(curve) and trial.should_prune():
                run.steps.append(Step(spent, None, true))
                raise optuna.TrialPruned
        run.steps.append(Step(spent, curve[-1], true))
        return curve[-1]

    while spent < budget:
        study.optimize(objective, n_trials=1)
    trials = [t for t in study.get_trials(deepcopy=False) if not is_taken(t)]
    run.slots = len(trials)
    run.proposals = sum(trial.user_attrs.get("proposals", 1) for trial in trials)
    return run
