"""What tells candidates apart that look the same in one line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from search.config.candidate import Candidate
from search.networks.glance import glance
from search.proposals.choices import choices_of


def apart(candidates: Sequence[Candidate]) -> list[str]:
    """For each, the choices by which it differs from others of its glance; else nothing."""
    lines = [glance(candidate.architecture) for candidate in candidates]
    settings = list(map(_settings, candidates))
    twins = defaultdict(list)
    for line, own in zip(lines, settings, strict=True):
        twins[line].append(own)
    return [_differences(own, twins[line]) for line, own in zip(lines, settings, strict=True)]


def _settings(candidate: Candidate) -> dict[str, Any]:
    """The choices that mean the candidate, of network and recipe."""
    return {**(choices_of(candidate.architecture) or {}), **asdict(candidate.recipe)}


def _differences(own: Mapping[str, Any], twins: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        _words(name.replace(".", " ").replace("_", " "), value)
        for name, value in own.items()
        if any(twin.get(name) != value for twin in twins)
    )


def _words(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
