"""Finalists: the best trials, trained again with fresh seeds before a winner is named.

Each such training is a trial of the study whose attribute `finalist` names the trial that it
repeats.  It has that trial's parameters, so that no view of the study misses any, but the
search does not count it, and samplers do not see it.  Everything here follows from the
study's trials: whoever reads them, in whatever process, comes to the same standing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from search.config.candidate import Candidate
from search.config.sections import FINALIST_MEASURES, StudyConfig, StudySection
from search.errors import ConfigError
from search.storage.goals import merit
from search.storage.ranking import CERTAIN, Ranking
from search.storage.refuted import borne_out
from search.storage.studies import study_config, validation_images
from search.storage.trials import Attributes, candidate_of, is_finalist

_NOTHING = 0.01  # so close to always guessing one class, a training learned nothing


@dataclass(frozen=True)
class Finalist:
    """One of the best trials, and its trainings since.

    `once` is the accuracy that the search measured, `measures` those of the completed
    trainings; `pending` counts those that wait or run.  `lost` tells why it cannot win any
    more: a training of it diverged, died or learned nothing.  `mean` accuracy, its standard
    `error` and the `probability` of being the best are those of `Ranking`, None before all can
    be ranked.
    """

    trial: int
    once: float
    measures: tuple[float, ...] = ()
    pending: int = 0
    lost: str | None = None
    mean: float | None = None
    error: float | None = None
    probability: float | None = None

    @property
    def trainings(self) -> int:
        """Completed and pending."""
        return len(self.measures) + self.pending


@dataclass(frozen=True)
class Standing:
    """How the finalists stand, the best as the search measured them first.

    `budget` bounds the trainings of all of them together, of which `begun` were, those that
    failed included; `index` is that of the study's next one.
    """

    finalists: tuple[Finalist, ...]
    budget: int
    begun: int
    index: int

    @property
    def leader(self) -> Finalist | None:
        """The most probable best, None before there is one."""
        return max(self._ranked, key=lambda each: each.probability or 0.0, default=None)

    @property
    def decided(self) -> bool:
        """Whether the leader is the best with enough certainty, or all are lost."""
        leader = self.leader
        certain = leader is not None and (leader.probability or 0.0) >= CERTAIN
        return certain or not self.racing

    @property
    def racing(self) -> list[Finalist]:
        """Those that can win."""
        return [each for each in self.finalists if each.lost is None]

    @property
    def pending(self) -> int:
        return sum(each.pending for each in self.finalists)

    @property
    def next(self) -> int | None:
        """The trial to train next; None while those that run must tell first, and at the end.

        Of those that lack the least number of trainings, or else of the two that are most
        probably the best, it is the one with fewer.
        """
        if self.decided or self.begun >= self.budget:
            return None
        contenders = [each for each in self.racing if each.trainings < FINALIST_MEASURES]
        if not contenders:
            ranked = sorted(self._ranked, key=lambda each: -(each.probability or 0.0))
            contenders = ranked[:2]
        return min(contenders, key=lambda each: each.trainings).trial if contenders else None

    @property
    def ordered(self) -> list[Finalist]:
        """The finalists, the leader first and the lost last; none before they are trained."""
        order = sorted(self.finalists, key=lambda each: (each.lost is not None, -(each.mean or 0)))
        order.sort(key=lambda each: each != self.leader)
        return order if self.begun else []

    def to_json(self) -> list[dict[str, Any]]:
        """What `status --json` prints of `ordered`."""
        return [asdict(each) for each in self.ordered]

    @property
    def _ranked(self) -> list[Finalist]:
        return [each for each in self.finalists if each.probability is not None]


def searched(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that are compared: all but the trainings of finalists."""
    return [trial for trial in trials if not is_finalist(trial)]


def standing(
    trials: Sequence[FrozenTrial], config: StudyConfig, images: int | None = None
) -> Standing:
    """How the finalists stand by all `trials` of the study, measured on so many `images`.

    They are the most accurate completed trials of now: where another comes in late, or the
    search goes on later, others may take their place, and the budget is that of the new ones.
    """
    section = config.study
    several = section.finalists > 1 and len(section.objectives) == 1
    best = _best(borne_out(searched(trials)), section) if several else []
    again = [trial for trial in trials if is_finalist(trial)]
    finalists = [_finalist(trial, again) for trial in best]
    begun = sum(_source(trial) in {each.trial for each in finalists} for trial in again)
    budget = section.finalist_training_budget
    return Standing(tuple(_ranked(finalists, images)), budget, begun, len(again))


def _best(trials: Sequence[FrozenTrial], section: StudySection) -> list[FrozenTrial]:
    """The best completed trials of different trainings: of one with several seeds, the best."""
    found: dict[str, FrozenTrial] = {}
    for trial in sorted(_completed(trials), key=_merit(section)):
        if len(found) == section.finalists:
            break
        found.setdefault(_with_repeat(candidate_of(trial), 0).hash, trial)
    return list(found.values())


def _completed(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [
        trial
        for trial in trials
        if trial.state == TrialState.COMPLETE and Attributes.of(trial).verdict == "accepted"
    ]


def _merit(section: StudySection) -> Callable[[FrozenTrial], tuple[float, ...]]:
    def key(trial: FrozenTrial) -> tuple[float, ...]:
        to_target = Attributes.of(trial).pflop_to_target
        return *merit(trial.values[0], to_target, section), trial.number

    return key


def _finalist(best: FrozenTrial, again: Sequence[FrozenTrial]) -> Finalist:
    own = [trial for trial in again if _source(trial) == best.number]
    measures = tuple(t.values[0] for t in own if t.state == TrialState.COMPLETE)
    return Finalist(
        trial=best.number,
        once=best.values[0],
        measures=measures,
        pending=sum(not trial.state.is_finished() for trial in own),
        lost=_lost(own, measures, candidate_of(best).architecture.classes),
    )


def _lost(own: Sequence[FrozenTrial], measures: Sequence[float], classes: int) -> str | None:
    """Why trainings end a finalist's race.  One that learned nothing is no measure of what it
    reaches, and would pass for noise of all finalists."""
    failed = next((trial for trial in own if trial.state == TrialState.FAIL), None)
    if failed:
        return Attributes.of(failed).failure or "its training failed"
    lowest = min(measures, default=1.0)
    return "its training learned nothing" if lowest < 1 / classes + _NOTHING else None


def _source(trial: FrozenTrial) -> int | None:
    finalist = Attributes.of(trial).finalist
    return None if finalist is None else finalist["trial"]


def _ranked(finalists: Sequence[Finalist], images: int | None) -> list[Finalist]:
    """The same with what the measures say, once each that can win has enough."""
    racing = [each for each in finalists if each.lost is None]
    if not racing or any(len(each.measures) < FINALIST_MEASURES for each in racing):
        return list(finalists)
    ranking = Ranking(tuple(each.measures for each in racing), images)
    numbers = zip(ranking.means, ranking.errors, ranking.probabilities, strict=True)
    found = {
        each.trial: replace(each, mean=mean, error=error, probability=probability)
        for each, (mean, error, probability) in zip(racing, numbers, strict=True)
    }
    return [found.get(each.trial, each) for each in finalists]


def certainty(probability: float) -> str:
    """0.968 -> `97 %`; draws cannot tell what is closer to one from one."""
    return f"{100 * probability:.0f} %" if probability < 0.99 else "over 99 %"


# --- their trainings -------------------------------------------------------------------


def queued(trials: Sequence[FrozenTrial]) -> bool:
    """Whether the training of a finalist waits for a worker."""
    return any(trial.state == TrialState.WAITING and is_finalist(trial) for trial in trials)


def template(trials: Sequence[FrozenTrial], now: Standing) -> FrozenTrial:
    """The queued trial that trains the next finalist of the standing of `trials`."""
    source = next(trial for trial in trials if trial.number == now.next)
    repeat = sum(_source(trial) == source.number for trial in trials)
    finalist = {"trial": source.number, "repeat": repeat, "index": now.index}
    known = Attributes.of(source)
    carried = Attributes(architecture=known.architecture, module=known.module, finalist=finalist)
    return create_trial(
        state=TrialState.WAITING,
        params=source.params,
        distributions=source.distributions,
        user_attrs=dict(carried.items()),
    )


def fresh_candidate(trial: Trial, config: StudyConfig) -> Candidate | None:
    """What a finalist's training trains: its candidate with a seed that no trial of the search
    has; None for a trial of the search."""
    finalist = Attributes.of(trial).finalist
    if finalist is None:
        return None
    trials = trial.study.get_trials(deepcopy=False)
    source = next(each for each in trials if each.number == finalist["trial"])
    return _with_repeat(candidate_of(source), config.study.repeats + finalist["repeat"])


def _with_repeat(candidate: Candidate, repeat: int) -> Candidate:
    return replace(candidate, recipe=replace(candidate.recipe, repeat=repeat))


# --- the winner ------------------------------------------------------------------------


def choose(study: optuna.Study, number: int | None = None) -> FrozenTrial:
    """The trial to export: `number`, or the leader of the finalists, or where there is none
    the best completed one (the earlier, of two).

    Raises:
        ConfigError: nothing has completed yet, or not that trial.
    """
    trials = study.get_trials(deepcopy=False)
    if number is None:
        return _winner(study, trials)
    for trial in _completed(trials):
        if trial.number == number and (source := _source(trial)) is not None:
            raise ConfigError(
                f"study {study.study_name}: trial {number} trains trial {source} again; "
                "export that one"
            )
        if trial.number == number:
            return trial
    match {trial.number: trial.state for trial in trials}.get(number):
        case None:
            found = "does not exist"
        case TrialState.FAIL:
            found = "failed"
        case TrialState.COMPLETE:  # told to Optuna by another program
            found = "holds no network that the checker accepted"
        case state:
            found = f"is {state.name.lower()}"
    raise ConfigError(f"study {study.study_name}: trial {number} {found}; export a completed one")


def _winner(study: optuna.Study, trials: Sequence[FrozenTrial]) -> FrozenTrial:
    completed = _completed(borne_out(searched(trials)))
    if not completed:
        raise ConfigError(
            f"study {study.study_name}: no trial has completed yet; launch it for longer"
        )
    config, leader = study_config(study), None
    if any(map(is_finalist, trials)):
        leader = standing(trials, config, validation_images(study)).leader
    best = min(completed, key=_merit(config.study))
    return next((t for t in completed if leader and t.number == leader.trial), best)
