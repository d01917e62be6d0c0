"""The study's parameters as Optuna's distributions."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search.config.candidate import Candidate
from search.config.sections import StudyConfig
from search.domains import Choice, Domain, IntRange, Scalar
from search.proposals.inner import Distributions
from search.proposals.internals import queued_with
from search.proposals.proposer import Input, Proposer, RejectedError
from search.storage.trials import Attributes, write


def distributions(config: StudyConfig) -> Distributions:
    """The flat, fixed search space of a study as Optuna's distributions."""
    return {name: _distribution(domain) for name, domain in config.parameters.items()}


def open_distributions(config: StudyConfig) -> Distributions:
    """Those that leave a choice."""
    return {k: v for k, v in distributions(config).items() if not v.single()}


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if isinstance(domain, IntRange):
        return IntDistribution(domain.low, domain.high, step=domain.step)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def suggest(trial: optuna.Trial, config: StudyConfig, *, input: Input, classes: int) -> Candidate:
    """The candidate of a trial: every parameter suggested, every rule kept.

    Queued trials reach this without the sampler, and are taken as they are: one proposal.

    Raises:
        RejectedError: the trial was queued with values that break a rule, or that name nothing.
        InfeasibleError: the sampler found no candidate.
    """
    _require_known(queued_with(trial), config)
    if not open_distributions(config):
        # Optuna asks the sampler only where there is a choice; ours also rejects duplicates.
        _ = trial.relative_params
    choices = {name: _suggest(trial, name, domain) for name, domain in config.parameters.items()}
    for name, domain in config.parameters.items():
        if choices[name] not in domain:
            raise RejectedError(f"{name}={choices[name]!r} is not in the search space")
    proposer = Proposer(config, input, classes)
    proposal = proposer.judge(choices, fill=False)
    if not proposal.accepted:
        raise RejectedError("; ".join(broken.message for broken in proposal.violations))
    candidate = proposer.candidate(choices)
    if Attributes.of(trial).candidate is None:
        write(trial, Attributes(candidate=candidate.hash, proposals=1))
    return candidate


def _require_known(queued: Mapping[str, Any], config: StudyConfig) -> None:
    """Raises a `RejectedError` where Optuna would pass over what a trial was queued with."""
    for name in queued.keys() - config.parameters.keys():
        near = difflib.get_close_matches(name, config.parameters, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(config.parameters)}"
        raise RejectedError(f"{name} is no parameter of this study; {hint}")


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Scalar:
    if isinstance(domain, Choice):
        return cast(Scalar, trial.suggest_categorical(name, domain.values))
    if isinstance(domain, IntRange):
        return trial.suggest_int(name, domain.low, domain.high, step=domain.step)
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
