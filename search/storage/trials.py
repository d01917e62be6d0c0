"""What a trial carries, written and read here alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial

from search.analysis.traced import network_of
from search.config.candidate import Candidate, Recipe
from search.errors import ConfigError
from search.networks.architecture import ArchitectureError
from search.networks.network import Network
from search.storage.internals import storage_of, trial_id

ARCHITECTURE, DEATHS, FINALIST, WORKER = "architecture", "deaths", "finalist", "worker"
GIVEN, MODULE, TAKEN = "given", "module", "taken"
"""Names of attributes, for who asks the database for them."""


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """A trial's user attributes; None stands for one that it lacks, as an older trial may.

    `candidate` is the hash that claims the candidate for the trial, `accepted` and `rejected`
    (by rule) tell what became of its `proposals`.  `seconds` were spent on training, and `moment`
    says where in it the trial was a few seconds ago.  `worker` says who works on it: `identity()`
    and a `claim` of its own for every start, beside those of its `earlier` starts.  `deaths`
    counts the workers that it lost, `batch_divisor` divides its batch after it ran out of memory.
    `finalist` is there where a finalist is trained again: the number of its `trial`, which
    `repeat` of it this is, and the `index` among all such trainings of the study.
    `given` names the network that somebody had trained beside the search, `taken` the study and
    trial that one was taken over from; neither counts towards the budget of trials.  `module` is
    the `key` of a network that is code: workers train it that were told to run this code.
    """

    candidate: str | None = None
    proposals: int | None = None
    accepted: int | None = None
    rejected: Mapping[str, int] | None = None
    architecture: Mapping[str, Any] | None = None
    recipe: Mapping[str, Any] | None = None
    receptive_field: int | None = None
    parameters: int | None = None
    macs: int | None = None
    verdict: str | None = None
    device: str | None = None
    history: Sequence[Mapping[str, Any]] | None = None
    seconds: float | None = None
    pflop: float | None = None
    pflop_to_target: float | None = None
    worker: Mapping[str, Any] | None = None
    deaths: int | None = None
    batch_divisor: int | None = None
    failure: str | None = None
    finalist: Mapping[str, int] | None = None
    moment: Mapping[str, Any] | None = None
    given: str | None = None
    module: str | None = None
    taken: str | None = None

    @classmethod
    def of(cls, trial: Trial | FrozenTrial) -> Attributes:
        """What `trial` carries; attributes of another making are passed over."""
        kept = trial.user_attrs
        return cls(**{name: kept[name] for name in NAMES if name in kept})

    def items(self) -> Iterator[tuple[str, Any]]:
        """Name and value of each that is there."""
        return ((name, value) for name in NAMES if (value := getattr(self, name)) is not None)


NAMES = tuple(field.name for field in fields(Attributes))


def is_finalist(trial: Trial | FrozenTrial) -> bool:
    """Whether the trial trains a finalist again; samplers ask it of every trial."""
    return FINALIST in trial.user_attrs


def is_given(trial: Trial | FrozenTrial) -> bool:
    """Whether the trial trains a network that somebody named."""
    return GIVEN in trial.user_attrs


def has_network(trial: FrozenTrial) -> bool:
    """Whether the trial came to a network, which it may have begun to train."""
    return ARCHITECTURE in trial.user_attrs


def has_diverged(trial: FrozenTrial) -> bool:
    """Whether the trial failed by what it trained, and not by where."""
    return (Attributes.of(trial).failure or "").startswith("DivergedError")


def is_taken(trial: Trial | FrozenTrial) -> bool:
    """Whether the trial was taken over from an older study."""
    return TAKEN in trial.user_attrs


def write(trial: Trial, attributes: Attributes) -> None:
    """Gives a running trial those of `attributes` that are not None."""
    for name, value in attributes.items():
        trial.set_user_attr(name, value)


def write_proposed(study: optuna.Study, trial: FrozenTrial, attributes: Attributes) -> None:
    """Likewise, from within a sampler, which holds the trial that `Trial` will read."""
    for name, value in attributes.items():
        storage_of(study).set_trial_user_attr(trial_id(trial), name, value)
        trial.user_attrs[name] = value


def as_seen(trial: FrozenTrial, rule: Callable[[str], str]) -> FrozenTrial:
    """A copy of `trial` with the attributes that a person reads, in words, and in numbers where
    the dashboard sorts and plots by them.

    Machine-only ones stay here: what fills screens in one line, and stands in the notes in a
    better way, hashes, and where a worker is within an epoch.  `rule` names a rule in words.
    """
    carried, seen = trial.user_attrs, copy(trial)
    others = {name: v for name, v in carried.items() if name not in _NAMED}
    kept = {name: v for name in _SEEN if (v := carried.get(name)) is not None}
    seconds, worker, finalist = map(carried.get, ("seconds", WORKER, FINALIST))
    told: dict[str, Any] = {
        "cost in TFLOP": _tera(carried.get("pflop")),
        "cost to target in TFLOP": _tera(carried.get("pflop_to_target")),
        "rejected": _rejected(carried.get("rejected"), rule),
        "seconds": None if seconds is None else round(seconds, 1),
        "worker": worker and "{host}, process {pid}".format_map(worker),
        "finalist": finalist and "trains trial {trial} again".format_map(finalist),
    }
    told = {name: value for name, value in told.items() if value is not None}
    seen.user_attrs = {**others, **kept, **told}
    return seen


_UNSEEN = (
    "architecture", "module", "recipe", "history", "moment", "candidate", "pflop",
    "pflop_to_target",
)  # fmt: skip
_SEEN = tuple(name for name in NAMES if name not in _UNSEEN)
_NAMED = frozenset(NAMES)


def _tera(pflop: float | None) -> float | None:
    return None if pflop is None else float(f"{1e3 * pflop:.3g}")


def _rejected(rules: Mapping[str, int] | None, rule: Callable[[str], str]) -> str | None:
    if rules is None:
        return None
    return ", ".join(f"{rule(name)} {n:,}" for name, n in rules.items()) or "none"


def architecture_of(trial: Trial | FrozenTrial) -> Network:
    """The network of a trial, whatever became of it.

    Raises:
        ConfigError: the trial carries none of this program.
    """
    try:
        return network_of(Attributes.of(trial).architecture)
    except ArchitectureError as error:
        raise ConfigError(f"trial {trial.number} holds no candidate: {error}") from None


def candidate_of(trial: Trial | FrozenTrial) -> Candidate:
    """The candidate that a trial trains.

    Raises:
        ConfigError: the trial carries none of this program.
    """
    architecture = architecture_of(trial)
    try:
        return Candidate(architecture, Recipe(**Attributes.of(trial).recipe or {}))
    except TypeError as error:
        raise ConfigError(f"trial {trial.number} holds no candidate: {error}") from None
