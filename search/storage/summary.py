"""What a study has come to so far: the one reading that terminal, dashboard and JSON show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from search.config.candidate import small_count, smaller
from search.config.sections import StudyConfig
from search.storage.finalists import Standing, searched, standing
from search.storage.goals import merit
from search.storage.refuted import borne_out
from search.storage.studies import study_config, validation_images
from search.storage.trials import Attributes, is_finalist

LEADERS = 5  # how many of the best are shown


@dataclass(frozen=True)
class Progress:
    """One trial as people see it.

    `accuracy` is of the validation set: the value of a completed trial, else the last that
    was reported.  `seconds` and at the end `pflop` were spent so far; `eta` seconds are left, where
    that is known.  `pflop_to_target` is the cost of one that reached the target.
    `finalist` is the number of the trial that this one trains again.  `moment` says where in the
    running epoch a trial was some seconds ago: `epoch` (from 1), `phase`, the share `done` of
    it and `images_per_second`.  `given` and `taken` are the trial's attributes.
    """

    number: int
    state: str
    accuracy: float | None
    epoch: int
    epochs: int | None
    receptive_field: int | None
    parameters: int | None
    macs: int | None
    proposals: int | None
    seconds: float | None
    pflop: float | None
    eta: float | None
    device: str | None
    worker: str | None
    failure: str | None
    finalist: int | None
    moment: Mapping[str, Any] | None = None
    given: str | None = None
    taken: str | None = None
    pflop_to_target: float | None = None

    @property
    def sizes(self) -> tuple[int | None, int | None, int | None]:
        """Receptive field (smaller axis), parameters and MACs of the network."""
        return self.receptive_field, self.parameters, self.macs

    @property
    def passed(self) -> float:
        """Epochs that are over, and the share of the running one."""
        return _passed(self.epoch, self.moment)

    @classmethod
    def of(cls, trial: FrozenTrial, now: datetime) -> Progress:
        """The trial with this project's user attributes; what it lacks is None."""
        carried = Attributes.of(trial)
        state = trial.state.name.lower()
        moment = carried.moment if state == "running" else None
        epoch = max(trial.intermediate_values, default=0)
        if moment is not None and moment["epoch"] > epoch:
            epoch = moment["epoch"] - 1  # finalists and several objectives report none
        else:  # that epoch is over
            moment = None
        epochs = (carried.recipe or {}).get("epochs")
        seconds = _seconds(trial, carried, now)
        return cls(
            number=trial.number,
            state=state,
            accuracy=_accuracy(trial),
            epoch=epoch,
            epochs=epochs,
            receptive_field=carried.receptive_field,
            parameters=carried.parameters,
            macs=carried.macs,
            proposals=carried.proposals,
            seconds=seconds,
            pflop=carried.pflop,
            eta=_eta(state, carried, _passed(epoch, moment), epochs, seconds),
            device=carried.device,
            worker=_worker(carried),
            failure=carried.failure,
            finalist=(carried.finalist or {}).get("trial"),
            moment=moment,
            given=carried.given,
            taken=carried.taken,
            pflop_to_target=carried.pflop_to_target,
        )


@dataclass(frozen=True)
class Summary:
    """A study at one moment.

    `proposed` counts all proposals, `accepted` those that kept every rule (a sampler that
    compares several makes a trial of one), `rejected` the others by rule (one may break
    several).  `road` is the best accuracy after each completed trial, `spent` the seconds in
    which at least one worker was active.  `trials` are all that are compared, `own` those of
    the search itself, which its budget counts; `finals` are the trainings of finalists, and
    `standing` is how these stand.  `refuted` are the numbers of trials that were taken over and
    that its own speak against: they are on no road and never the best, as none is exported.
    """

    name: str
    config: StudyConfig
    trials: tuple[Progress, ...]
    finals: tuple[Progress, ...]
    standing: Standing
    proposed: int
    accepted: int
    rejected: dict[str, int]
    road: tuple[float, ...]
    spent: float
    started: datetime | None
    refuted: frozenset[int] = frozenset()

    @cached_property
    def own(self) -> tuple[Progress, ...]:
        """The trials that were neither given nor taken over."""
        return tuple(trial for trial in self.trials if not (trial.given or trial.taken))

    @property
    def given(self) -> int:
        """How many networks somebody had trained beside the search."""
        return sum(trial.given is not None for trial in self.trials)

    @property
    def taken(self) -> int:
        """How many trials were taken over from other studies."""
        return sum(trial.taken is not None for trial in self.trials)

    @cached_property
    def states(self) -> dict[str, int]:
        """How many of its own trials are in each of Optuna's states."""
        counted = Counter(trial.state for trial in self.own)
        return {state.name.lower(): counted[state.name.lower()] for state in TrialState}

    @cached_property
    def running(self) -> tuple[Progress, ...]:
        every = (*self.trials, *self.finals)
        return tuple(trial for trial in every if trial.state == "running")

    @cached_property
    def best(self) -> tuple[Progress, ...]:
        """Completed trials, the best first."""
        believed = (t for t in self.trials if t.number not in self.refuted)
        completed = [t for t in believed if t.state == "complete" and t.accuracy is not None]

        def key(trial: Progress) -> tuple[float, ...]:
            return merit(trial.accuracy or 0.0, trial.pflop_to_target, self.config.study)

        return tuple(sorted(completed, key=lambda trial: (*key(trial), trial.number)))

    @property
    def finished(self) -> int:
        """How many of its own trials have ended."""
        return self.trained + self.states["fail"]

    @property
    def trained(self) -> int:
        """How many of its own trials the budget counts: a failed one leaves its place free."""
        return self.states["complete"] + self.states["pruned"]

    @property
    def cost(self) -> float:
        """PFLOP of its own trials; what is given or trained again as a finalist is no search."""
        return sum(trial.pflop or 0.0 for trial in self.own)

    @property
    def compared(self) -> int:
        """How many trials have ended, wherever they come from."""
        return sum(trial.state in ("complete", "pruned", "fail") for trial in self.trials)

    @property
    def met(self) -> bool:
        """Whether the target accuracy was reached."""
        return self.config.study.met(self.road[-1] if self.road else None)

    @property
    def left(self) -> float | None:
        """Seconds that are left of the budget of hours, None where there is none."""
        hours = self.config.study.hours
        return None if hours is None else max(0.0, 3600 * hours - self.spent)

    def to_json(self) -> dict[str, Any]:
        """What `status --json` prints."""
        section = self.config.study
        return {
            "study": self.name,
            "target": section.target,
            "target_met": self.met,
            "trials": self.states,
            "trials_left": max(0, section.trials - self.trained),
            "given": self.given,
            "taken": self.taken,
            "pflop_spent": self.cost,
            "seconds_spent": self.spent,
            "seconds_left": self.left,
            "started": self.started.isoformat() if self.started else None,
            "best": asdict(self.best[0]) if self.best else None,
            "leaders": [asdict(trial) for trial in self.best[:LEADERS]],
            "finalists": self.standing.to_json(),
            "running": [asdict(trial) for trial in self.running],
            "proposals": {
                "proposed": self.proposed,
                "accepted": self.accepted,
                "rejected": self.rejected,
            },
            "workers": sorted({trial.worker for trial in self.running if trial.worker}),
        }


def summarize(study: Study, config: StudyConfig | None = None) -> Summary:
    """Reads the study once from its storage; its own study file too, unless given `config`.

    Raises:
        ConfigError: the study holds no study file of this program.
    """
    every = study.get_trials(deepcopy=False)
    trials, finals = searched(every), [trial for trial in every if is_finalist(trial)]
    now = datetime.now()
    if config is None:
        config = study_config(study)
    carried, believed = [Attributes.of(trial) for trial in trials], borne_out(trials)
    return Summary(
        name=study.study_name,
        config=config,
        trials=tuple(Progress.of(trial, now) for trial in trials),
        finals=tuple(Progress.of(trial, now) for trial in finals),
        standing=standing(every if finals else (), config, validation_images(study)),
        proposed=sum(each.proposals or 0 for each in carried),
        accepted=sum(_accepted(each) for each in carried),
        rejected=_rejected(carried),
        road=_road(believed),
        spent=study.user_attrs.get("clock", {}).get("seconds", 0.0),
        started=min((t.datetime_start for t in trials if t.datetime_start), default=None),
        refuted=frozenset({t.number for t in trials} - {t.number for t in believed}),
    )


def _accepted(carried: Attributes) -> int:
    # A trial that was queued, or is of an older version, counts as the one that it is.
    return (carried.proposals is not None) if carried.accepted is None else carried.accepted


def _rejected(trials: Iterable[Attributes]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for carried in trials:
        counted.update(carried.rejected or {})
    return dict(counted.most_common())


def _worker(carried: Attributes) -> str | None:
    worker = carried.worker
    return f"{worker['host']}:{worker['pid']}" if worker else None


def _accuracy(trial: FrozenTrial) -> float | None:
    reported = trial.intermediate_values
    last = trial.values[0] if trial.values else reported[max(reported)] if reported else math.nan
    return last if math.isfinite(last) else None


def _passed(epoch: int, moment: Mapping[str, Any] | None) -> float:
    return epoch + (moment["done"] if moment else 0)


def _seconds(trial: FrozenTrial, carried: Attributes, now: datetime) -> float | None:
    running = trial.state == TrialState.RUNNING
    if carried.seconds is not None and not running:
        return float(carried.seconds)
    if trial.datetime_start is None:
        return None
    since = ((trial.datetime_complete or now) - trial.datetime_start).total_seconds()
    return since + (carried.seconds or 0.0)  # of one that was stopped and began again


def _eta(
    state: str, carried: Attributes, passed: float, epochs: int | None, seconds: float | None
) -> float | None:
    """Seconds that are left after `passed` epochs, which may be a part of one."""
    # Before a quarter of the first epoch most of the time went into what is done once.
    if state != "running" or passed < 0.25 or not epochs:
        return None
    history = carried.history or ()
    # A resumed trial's clock counts from the resume; its epochs know what they took.
    taken = sum(epoch["seconds"] for epoch in history) if history else seconds or 0.0
    each = taken / _work(carried, len(history) or passed)
    return max(0.0, each * (_work(carried, epochs) - _work(carried, passed)))


def _work(carried: Attributes, epochs: float) -> float:
    """What the first `epochs` cost, in epochs of full size: a small one costs by its pixels."""
    recipe, network = carried.recipe or {}, carried.architecture or {}
    if not recipe.get("small_epochs"):
        return epochs
    _, height, width = network["input"]
    pixels = math.prod(smaller((height, width), recipe["small_side"])) / (height * width)
    small = min(epochs, small_count(recipe["small_epochs"], recipe["epochs"]))
    saved: float = small * (1 - pixels)
    return epochs - saved


def _road(trials: Iterable[FrozenTrial]) -> tuple[float, ...]:
    best, road = -math.inf, []
    completed = [t for t in trials if t.state == TrialState.COMPLETE and t.datetime_complete]
    for trial in sorted(completed, key=lambda t: t.datetime_complete or datetime.max):
        best = max(best, trial.values[0])
        road.append(best)
    return tuple(road)
