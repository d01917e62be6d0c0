"""The sheet of limits: which rules there are, and what breaks them.

`check` gives the verdict on a network with its table; `violations` is the fast way for
samplers: the verdict alone, from facts that candidates share.  The arithmetic is in
`search.analysis`, what any rule does in `search.limits`.  A new limit is one class here.

Nothing here imports torch.
"""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from search.analysis.device import RUNNING
from search.analysis.facts import Facts
from search.analysis.graph import FLOAT32_BYTES, Graph
from search.analysis.memory import Memory
from search.analysis.table import Analysis, analyze, facts
from search.limits import LIMITS, AtLeast, AtMost, Below, Limit, Violation, counted
from search.networks.network import Network

__all__ = [
    "LIMITS",
    "OFF",
    "AtLeast",
    "AtMost",
    "Below",
    "Limit",
    "Limits",
    "Verdict",
    "Violation",
    "check",
    "violations",
]


class ReceptiveField(Limit):
    """The smaller axis of the receptive field must exceed the limit."""

    key = "receptive_field"
    comparison = ">"
    of_widths = False

    def found(self, network: Facts | Analysis) -> int | None:
        return network.smaller_field

    def distance(self, found: int) -> int:
        return self.value + 1 - found

    def message(self, found: int | None, network: Facts | Analysis) -> str:
        if found is not None:
            return f"the receptive field must exceed {self.value}, but is {found}"
        return (
            f"the receptive field must exceed {self.value}, but has no value: "
            "a unit of the last map sees the whole image other than by global pooling"
            + "".join(f" ({note})" for note in network.notes[:1])
        )


class Parameters(Below):
    """Trainable parameters."""

    key = "parameters"
    noun = "parameters"

    def found(self, network: Facts | Analysis) -> int:
        return network.parameters


class ParameterBytes(Below):
    """Bytes of the trainable parameters in float32."""

    key = "parameter_bytes"
    noun = "bytes of parameters (float32)"

    def found(self, network: Facts | Analysis) -> int:
        return FLOAT32_BYTES * network.parameters


class Macs(Below):
    """Multiply-adds for one input."""

    key = "macs"
    words = "MACs"
    noun = "multiply-adds"

    def found(self, network: Facts | Analysis) -> int:
        return network.macs


class ActivationBytes(Below):
    """Peak bytes of feature maps for one image in float32: see `peak_bytes`."""

    key = "activation_bytes"
    noun = "peak bytes of feature maps (float32, one image)"

    def found(self, network: Facts | Analysis) -> int:
        return network.activation_bytes


class OnDevice(Below):
    """Bytes on a microcontroller, weights and activations in int8; no value where it lacks a
    kernel for an operation."""

    @abstractmethod
    def _bytes(self, memory: Memory) -> int:
        """What is compared."""

    def found(self, network: Facts | Analysis) -> int | None:
        memory = network.memory
        return None if memory.lacking else self._bytes(memory)

    def message(self, found: int | None, network: Facts | Analysis) -> str:
        if found is not None:
            return super().message(found, network)
        lacking = ", ".join(network.memory.lacking)
        return f"{self.noun}: TensorFlow Lite Micro has no {lacking}; {RUNNING} run there"


class ArenaBytes(OnDevice):
    """What TensorFlow Lite Micro allocates to run the network, its weights and activations in
    int8."""

    key = "arena_bytes"
    noun = "bytes of TensorFlow Lite Micro's arena (int8)"

    def _bytes(self, memory: Memory) -> int:
        return memory.arena


class FlashBytes(OnDevice):
    """The bytes of the file with the network's weights in int8, which lies in flash."""

    key = "flash_bytes"
    noun = "bytes of flash (the int8 file)"

    def _bytes(self, memory: Memory) -> int:
        return memory.flash


class Downsampling(Limit):
    """Exactly so many 3x3 stride-2 convolutions, at the ends of C1, C2 and C3: as many of these
    as can be end in one; no other layer shrinks the map, and pooling in O leaves one cell."""

    key = "downsampling"
    comparison = "exactly"
    lowest = 0
    of_widths = False

    def found(self, network: Facts | Analysis) -> int:
        return network.structure.transitions + len(network.structure.strays)

    def distance(self, found: int) -> int:
        return abs(found - self.value)

    def violation(self, network: Facts | Analysis) -> Violation | None:
        message = self.message(None, network)
        if not message:
            return None
        found = network.structure
        distance = abs(found.transitions - self.value) + len(found.strays)
        excess = max(distance, 1) / max(self.value, 1)
        return Violation(self.key, self.found(network), self.value, message, excess)

    def message(self, found: int | None, network: Facts | Analysis) -> str:
        has, faults = network.structure, []
        if has.transitions != self.value or len(has.missing) > max(0, 3 - self.value):
            where = f" (none ends {', '.join(has.missing)})" if has.missing else ""
            each = "one at the end of each" if self.value == 3 else "at the ends"
            asked = counted(self.value, "3x3 stride-2 convolution(s)")
            are = "is" if has.transitions == 1 else "are"
            faults.append(
                f"exactly {asked} must downsample, {each} of C1, C2 and C3, but there {are} "
                f"{has.transitions}{where}"
            )
        if has.strays:
            faults.append(f"nothing else may downsample, but there is {', '.join(has.strays)}")
        if has.output_cells != 1:
            faults.append(f"pooling must leave one cell, but leaves {has.output_cells}")
        return "; ".join(faults)


class DepthwiseSeparable(AtLeast):
    """A depthwise k x k convolution followed by a pointwise 1x1 one, which in a module may be a
    linear layer over channels.  Such a layer counts as often as it is applied, as all do that rules
    of structure count."""

    key = "depthwise_separable"
    noun = "depthwise separable convolution(s) (depthwise k x k, then pointwise 1x1)"
    of_widths = False

    def found(self, network: Facts | Analysis) -> int:
        return network.structure.separable


class Dilated(AtLeast):
    """A convolution with kernel > 1 and dilation > 1."""

    key = "dilated"
    noun = "dilated convolution(s) (kernel > 1, dilation > 1)"
    of_widths = False

    def found(self, network: Facts | Analysis) -> int:
        return network.structure.dilated


class FeatureMap(AtLeast):
    """The smaller side of the last feature map."""

    key = "feature_map"
    noun = "units on the smaller side of the last feature map"
    of_widths = False

    def found(self, network: Facts | Analysis) -> int:
        return min(network.feature_map)


class Depth(AtMost):
    """Convolutions in C1 to C4; gates and the classifier do not count."""

    key = "depth"
    noun = "convolution(s)"
    of_widths = False

    def found(self, network: Facts | Analysis) -> int:
        return network.structure.depth


OFF: Literal["off"] = "off"


@dataclass(frozen=True, slots=True)
class Limits:
    """The rules of a study, in its order."""

    rules: tuple[Limit, ...]

    @classmethod
    def from_mapping(cls, values: Mapping[str, int | Literal["off"]]) -> Limits:
        """The limits that `values`, `[limits]` of the study file, names.

        "off" turns a rule off, and so does 0, but for a rule that may ask for 0.

        Raises:
            ValueError: an unknown name (with the nearest known one), or no whole number.
        """
        rules = (_limit(name, value) for name, value in values.items())
        return cls(tuple(rule for rule in rules if rule is not None))

    def to_mapping(self) -> dict[str, int]:
        """The inverse of `from_mapping`, less the rules that are off."""
        return {rule.key: rule.value for rule in self.rules}


def _limit(name: str, value: object) -> Limit | None:
    kind = LIMITS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, LIMITS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(LIMITS)}"
        raise ValueError(f"unknown limit {name!r}; {hint}")
    if value == OFF:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f'limit {name} must be a whole number or "off", but got {value!r}')
    if value == 0 < kind.lowest:
        return None
    if value < kind.lowest:
        raise ValueError(f"limit {name} must be at least {kind.lowest}, but got {value}")
    return kind(value)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The analysis of a network and the rules that it breaks."""

    analysis: Analysis
    violations: tuple[Violation, ...]

    @property
    def accepted(self) -> bool:
        return not self.violations

    def to_json(self) -> dict[str, Any]:
        """The document of `check --json`."""
        analysis = self.analysis
        axes = ("depth", "height", "width")[-len(analysis.receptive_field) :]
        return {
            "receptive_field": dict(zip(axes, analysis.receptive_field, strict=True)),
            "jump": dict(zip(axes, analysis.jump, strict=True)),
            "center": dict(zip(axes, analysis.center, strict=True)),
            "pixels_seen": dict(zip(axes, analysis.pixels_seen, strict=True)),
            "parameters": analysis.parameters,
            "macs": analysis.macs,
            "accepted": self.accepted,
            "violations": [violation.to_json() for violation in self.violations],
            "memory": analysis.memory_json(),
            "notes": list(analysis.notes),
            "layers": [layer.to_json() for layer in analysis.layers],
        }


def check(target: Network | Graph, limits: Limits) -> Verdict:
    """The verdict on a network, with its table.

    Raises:
        ArchitectureError: a window does not fit on the map that it reads.
    """
    analysis = analyze(target)
    return Verdict(analysis, _broken_rules(analysis, limits))


def violations(network: Network, limits: Limits) -> tuple[Violation, ...]:
    """The rules that a network breaks: `check` without the table, for samplers.

    Raises:
        ArchitectureError: a window does not fit on the map that it reads.
    """
    return _broken_rules(facts(network), limits)


def _broken_rules(network: Facts | Analysis, limits: Limits) -> tuple[Violation, ...]:
    found = (rule.violation(network) for rule in limits.rules)
    return tuple(violation for violation in found if violation is not None)
