"""Candidates that somebody asks for, in a study's own terms: its choices, recipe and rules."""

from __future__ import annotations

from constraints import violations
from search.analysis.facts import macs_at
from search.config.candidate import Candidate, Recipe
from search.config.sections import StudyConfig
from search.errors import ConfigError
from search.networks.architecture import ArchitectureError
from search.networks.network import Network
from search.proposals.choices import ForeignError, expressed
from search.proposals.filling import Choices
from search.proposals.proposer import Input, RejectedError


def require_legal(network: Network, config: StudyConfig) -> None:
    """Accepts a network that keeps the study's rules.

    Raises:
        RejectedError: it breaks some; says which, in the checker's words.
    """
    broken = violations(network, config.rules)
    if broken:
        reasons = "; ".join(violation.message for violation in broken)
        raise RejectedError(f"study {config.study.name} rejects the network: {reasons}")


def require_fitting(network: Network, input: Input, classes: int) -> None:
    """Accepts a network that reads the study's images and tells its classes.

    Raises:
        ConfigError: it does not.
    """
    reads, tells = network.input, network.classes
    if (reads, tells) != (input, classes):
        raise ConfigError(
            f"the network reads images {list(reads)} of {tells} classes, but the study's are "
            f"{list(input)} of {classes}; name a study of such images"
        )


def recipe_choices(config: StudyConfig, like: Recipe | None) -> Choices:
    """A value for each choice that the study leaves open of the recipe: that of `like` where
    the study allows it, else the middle of the range."""
    told = like.choices() if like else {}
    return {
        name: told[name] if told.get(name) in domain else domain.middle
        for name, domain in config.recipe_parameters.items()
    }


def given(network: Network, config: StudyConfig, like: Recipe | None) -> tuple[Candidate, Choices]:
    """The candidate that trains a network by the study's recipe, and the choices that mean it;
    none where the space does not express it.

    Raises:
        ConfigError: the network does not take the smaller images that the recipe begins with.
    """
    choices = recipe_choices(config, like)
    candidate = Candidate(network, config.recipe(choices))
    _require_smaller(candidate)
    try:
        return candidate, {**expressed(network, config.space), **choices}
    except ForeignError:
        return candidate, {}


def _require_smaller(candidate: Candidate) -> None:
    """As a pooling with a window of its own may not: it has room on one size of map."""
    channels, height, width = candidate.architecture.input
    for size in candidate.recipe.sizes((height, width)):
        try:
            macs_at(candidate.architecture, size)
        except ArchitectureError as error:
            raise ConfigError(
                f"the network does not take the study's smaller images {[channels, *size]}: "
                f"{error}; --set training.small_epochs=0 trains on full ones"
            ) from None
