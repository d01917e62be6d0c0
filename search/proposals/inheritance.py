"""What an older study has found out that a new one, under other limits or in another space, can
use without training it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.config.candidate import Candidate
from search.config.sections import StudyConfig, StudySection
from search.errors import ConfigError
from search.proposals.asked import recipe_choices
from search.proposals.choices import ForeignError, expressed
from search.proposals.filling import Choices
from search.proposals.parameters import distributions
from search.proposals.proposer import Input, Proposer
from search.storage.finalists import searched
from search.storage.goals import values
from search.storage.studies import images_of, study_config
from search.storage.studies import searched as compared_keys
from search.storage.trials import Attributes, candidate_of

AGAIN = 1
"""Trials whose accuracies mean something else here, of which so many are trained again: on the
bench three bad ones cost a misled study a quarter more, and three good ones find little sooner."""

_RUNG = "completed_rung_"  # Optuna's successive halving notes there who competed for what
_KEPT = (
    "architecture", "recipe", "receptive_field", "parameters", "macs", "verdict", "device",
    "history", "seconds", "pflop", "pflop_to_target",
)  # fmt: skip
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass
class Inheritance:
    """`taken` are trials for the new study, as if it had trained them; `again` the choices of
    the best ones that it has to train itself, since their accuracies do not compare: `differs`
    says why.  `left` counts the others by the reason."""

    taken: list[FrozenTrial] = field(default_factory=list)
    again: list[Choices] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)
    differs: str = ""

    @property
    def trials(self) -> int:
        """All that there were."""
        return len(self.taken) + len(self.again) + self.left.total()

    def give(self, study: optuna.Study) -> None:
        """Makes it the new study's."""
        for trial in self.taken:
            study.add_trial(trial)
        for choices in self.again:
            study.enqueue_trial(choices, skip_if_exists=True)


class _LeftError(Exception):
    """Why a trial stays where it is."""


class _Again:
    """Trials whose accuracies do not compare; several may be one candidate here."""

    def __init__(self) -> None:
        self.trials = 0
        self.done = 0  # here already: an earlier launch has asked for them
        self.differs = ""
        self._found: dict[str, tuple[float, Choices]] = {}

    def add(self, own: Candidate, choices: Choices, accuracy: float, differs: str) -> None:
        self.trials += 1
        self.differs = self.differs or differs
        if own.hash not in self._found or accuracy > self._found[own.hash][0]:
            self._found[own.hash] = accuracy, choices

    def best(self, known: Container[str]) -> list[Choices]:
        """The choices of the most accurate of which no accuracy is `known`, `AGAIN` at most."""
        left = [each for held, each in self._found.items() if held not in known]
        ranked = sorted(left, key=lambda each: -each[0])
        return [choices for _, choices in ranked[: max(0, AGAIN - self.done)]]


def inherit(
    study: optuna.Study,
    config: StudyConfig,
    input: Input,
    classes: int,
    identity: Mapping[str, Any],
    held: Iterable[str] = (),
) -> Inheritance:
    """What of an older `study` the one of `config` can use, judged by its own rules.

    `identity` is that of its data set, `held` the hashes of candidates that it has already.
    """
    proposer, before = Proposer(config, input, classes), frozenset(held)
    known = set(before)
    differs = _difference(study, config, identity)
    found, again = Inheritance(), _Again()
    for trial in searched(study.get_trials(deepcopy=False)):
        try:
            choices = _legal(trial, proposer)
        except _LeftError as left:
            found.left[str(left)] += 1
            continue
        own = proposer.candidate(choices)
        reason = differs or _otherwise(trial, own, config)
        pruned = trial.state == TrialState.PRUNED
        if own.hash in known:
            found.left["here already"] += 1
            again.done += bool(reason) and own.hash in before
        elif pruned and (reason or len(config.study.objectives) > 1):
            found.left["pruned"] += 1
        elif reason:
            again.add(own, choices, trial.values[0], reason)
        else:
            known.add(own.hash)
            found.taken.append(_as_own(trial, own, choices, study.study_name, config))
    found.again, found.differs = again.best(known), again.differs
    if again.trials > len(found.again):
        found.left["not comparable"] = again.trials - len(found.again)
    return found


# --- do accuracies mean the same? ------------------------------------------------------


def _difference(study: optuna.Study, config: StudyConfig, identity: Mapping[str, Any]) -> str:
    """What makes accuracies of the two studies mean different things; nothing where none does."""
    kept = images_of(study)
    if identity and not kept:
        return "its images are not known"
    for key, value in identity.items():
        if kept.get(key, value) != value:
            return f"other {key}"
    before, now = (_fidelity(each) for each in (study_config(study), config))
    return next((_told(key, before[key], now[key]) for key in now if before[key] != now[key]), "")


def _fidelity(config: StudyConfig) -> dict[str, Any]:
    """What no recipe tells of how a trial is trained and measured."""
    augmentation = compared_keys(config).items()
    measured = {k: v for k, v in augmentation if k.startswith("augmentation.")}
    measured.pop("augmentation.strength")
    return {
        "study.metric": config.study.metric,
        "training.precision": config.training.precision,
        **measured,
    }


def _otherwise(trial: FrozenTrial, own: Candidate, config: StudyConfig) -> str:
    """In what the training of a trial was another than the study's of the same choices."""
    was = candidate_of(trial).recipe
    for key in fields(was):
        before, now = (getattr(recipe, key.name) for recipe in (was, own.recipe))
        if before != now:
            return _told(key.name, before, now)
    history = Attributes.of(trial).history
    if history is None and config.study.goes_on:
        return "its epochs are not known"
    early = history is not None and len(history) < was.epochs
    if trial.state == TrialState.COMPLETE and early and not config.study.met(trial.values[0]):
        return "it ended at a lower target"
    return ""


def _told(key: str, before: object, now: object) -> str:
    return f"{key} is {before} there, {now} here"


# --- one trial -------------------------------------------------------------------------


def _legal(trial: FrozenTrial, proposer: Proposer) -> Choices:
    """The new study's choices that mean the network of a trial.

    Raises:
        _LeftError: it is none.
    """
    if trial.state not in _ENDED:
        raise _LeftError("failed" if trial.state == TrialState.FAIL else "not finished")
    try:
        choices = _choices(trial, proposer)
    except ConfigError:
        raise _LeftError("without a network") from None
    except ForeignError:
        raise _LeftError("outside the space") from None
    proposal = proposer.judge(choices, fill=False)
    if not proposal.accepted:
        rules = ", ".join(broken.rule.replace("_", " ") for broken in proposal.violations)
        raise _LeftError(f"against the limits ({rules})")
    return choices


def _choices(trial: FrozenTrial, proposer: Proposer) -> Choices:
    """Its own choices where they fit, else those that are read off its network."""
    config, candidate = proposer.config, candidate_of(trial)
    recipe = recipe_choices(config, candidate.recipe)
    space, network = config.space, candidate.architecture
    own = {name: value for name, value in trial.params.items() if name in space.parameters}
    fits = own.keys() == space.parameters.keys() and all(
        value in space.parameters[name] for name, value in own.items()
    )
    shape, classes = network.input, network.classes
    if not fits or space.architecture(own, input=shape, classes=classes) != network:
        own = expressed(network, space)
    return {**own, **recipe}


def _as_own(
    trial: FrozenTrial, own: Candidate, choices: Choices, study: str, config: StudyConfig
) -> FrozenTrial:
    """A trial of another study as one of this, with what it measured there."""
    carried, accuracy = Attributes.of(trial), trial.values[0] if trial.values else None
    if config.study.goes_on and accuracy is not None:
        carried, accuracy = _until_target(carried, accuracy, own, config.study)
    kept = {name: value for name, value in carried.items() if name in _KEPT}
    told = Attributes(**kept, candidate=own.hash, taken=f"{study}:{trial.number}")
    return create_trial(
        state=trial.state,
        params=choices,
        distributions=distributions(config),
        values=None if accuracy is None else values(carried, accuracy, config.study),
        intermediate_values={} if len(config.study.objectives) > 1 else trial.intermediate_values,
        user_attrs=dict(told.items()),
        system_attrs={k: v for k, v in trial.system_attrs.items() if k.startswith(_RUNG)},
    )


def _until_target(
    carried: Attributes, accuracy: float, own: Candidate, study: StudySection
) -> tuple[Attributes, float]:
    """What a trial carries, and its accuracy, had the target of `study` ended it: the older
    study's may have been higher."""
    history = carried.history or ()
    met = next((epoch for epoch in history if study.met(epoch[study.metric])), None)
    if met is None:
        return replace(carried, pflop_to_target=None), accuracy
    ran = history[: met["epoch"]]
    pflop, seconds = own.pflop(len(ran), met["images"]), sum(epoch["seconds"] for epoch in ran)
    told = replace(carried, history=ran, seconds=seconds, pflop=pflop, pflop_to_target=pflop)
    return told, met[study.metric]
