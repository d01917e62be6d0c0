"""A network as frozen data: layers, units, blocks, output; JSON both ways; its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from search.networks.network import Network

JSON_VERSION = 1
BlockName = Literal["C1", "C2", "C3", "C4"]
BLOCK_NAMES: tuple[BlockName, ...] = get_args(BlockName)

Activation = Literal["relu", "relu6", "gelu", "silu", "hardswish"]

# Bounds of what is ever meant as a small convolutional network.  They turn a slip of the
# keyboard (10^9 channels) into a message instead of an exhausted machine.
Channels = Annotated[int, Field(ge=1, le=65_536, strict=True)]
Kernel = Annotated[int, Field(ge=1, le=31, strict=True)]
Step = Annotated[int, Field(ge=1, le=64, strict=True)]
Padding = Annotated[int, Field(ge=0, le=1_024, strict=True)]
Probability = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


MOST_LAYERS = 4_096


class ArchitectureError(ValueError):
    """An architecture, or the JSON of one, that means no network."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One 2-d convolution with square kernel, and what follows it in this order:
    batch normalisation, activation, dropout."""

    in_channels: Channels
    out_channels: Channels
    kernel: Kernel = 3
    stride: Step = 1
    padding: Padding = 0
    dilation: Step = 1
    groups: Channels = 1
    bias: bool = False
    norm: bool = True
    activation: Activation | None = None
    dropout: Probability = 0.0

    def __post_init__(self) -> None:
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ArchitectureError(
                f"groups must divide both channel counts, but got groups={self.groups} "
                f"with {self.in_channels} -> {self.out_channels} channels"
            )

    @property
    def depthwise(self) -> bool:
        """One filter per input channel, over more than one pixel."""
        return 1 < self.groups == self.in_channels and self.kernel > 1

    @property
    def pointwise(self) -> bool:
        """A 1x1 convolution that mixes all channels."""
        return self.kernel == 1 and self.groups == 1

    @property
    def keeps_size(self) -> bool:
        return self.stride == 1 and 2 * self.padding == self.dilation * (self.kernel - 1)


@dataclass(frozen=True, slots=True)
class Unit:
    """Layers in sequence, then a squeeze-and-excite gate, then the addition of the input.

    `squeeze_excite` is the number of hidden channels of the gate, 0 for none.
    """

    layers: tuple[Layer, ...]
    residual: bool = False
    squeeze_excite: Annotated[int, Field(ge=0, le=65_536, strict=True)] = 0

    def __post_init__(self) -> None:
        if not self.layers:
            raise ArchitectureError("a unit must have at least one layer")
        _require_chain(self.layers, "unit")
        if self.residual and not (
            self.in_channels == self.out_channels and all(layer.keeps_size for layer in self.layers)
        ):
            raise ArchitectureError(
                "a residual unit must keep channels and feature-map size, but got "
                f"{self.in_channels} -> {self.out_channels} channels through {list(self.layers)}"
            )

    @property
    def in_channels(self) -> int:
        return self.layers[0].in_channels

    @property
    def out_channels(self) -> int:
        return self.layers[-1].out_channels


@dataclass(frozen=True, slots=True)
class Block:
    """Units at one resolution, then the transition to the next (empty for none)."""

    name: BlockName
    units: tuple[Unit, ...]
    transition: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        if not self.layers:
            raise ArchitectureError(f"block {self.name} must have at least one layer")
        _require_chain(self.layers, f"block {self.name}")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers in order of computation, the transition's last."""
        return (*(layer for unit in self.units for layer in unit.layers), *self.transition)


@dataclass(frozen=True, slots=True)
class Output:
    """Average pooling and a classifier.  `pool_kernel` 0 pools globally; any other value
    is a window that must leave one cell (the baseline's `AvgPool2d(3, 2)` on 4x4)."""

    classes: Annotated[int, Field(ge=2, le=100_000, strict=True)]
    classifier: Literal["linear", "conv"] = "linear"
    bias: bool = True
    pool_kernel: Annotated[int, Field(ge=0, le=1_024, strict=True)] = 0
    pool_stride: Step = 1
    dropout: Probability = 0.0


@dataclass(frozen=True, slots=True)
class Architecture(Network):
    """A network of four blocks and an output.  `input` is (channels, height, width)."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # of the parts, too

    blocks: tuple[Block, ...]
    output: Output
    input: tuple[Channels, Channels, Channels] = (3, 32, 32)
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        names = tuple(block.name for block in self.blocks)
        if names != BLOCK_NAMES:
            raise ArchitectureError(f"blocks must be {list(BLOCK_NAMES)}, but got {list(names)}")
        first = self.blocks[0].layers[0]
        if first.in_channels != self.input[0]:
            raise ArchitectureError(
                f"the first layer must read the {self.input[0]} channels of the input, "
                f"but it reads {first.in_channels}"
            )
        for before, after in pairwise(self.blocks):
            _require_chain((before.layers[-1], after.layers[0]), f"{before.name} -> {after.name}")

    @property
    def classes(self) -> int:
        return self.output.classes

    @property
    def features(self) -> int:
        """Channels of the last feature map, which the classifier reads."""
        return self.blocks[-1].layers[-1].out_channels

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that name this network; its `name` does not count."""
        content = self.to_json()
        del content["name"]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, with the version of its format."""
        return {"version": JSON_VERSION, **_ARCHITECTURE.dump_python(self, mode="json")}

    @classmethod
    def from_json(cls, data: object) -> Architecture:
        """The architecture that `data` describes.

        Raises:
            ArchitectureError: naming the key and the value that mean no network.
        """
        if not isinstance(data, Mapping):
            raise ArchitectureError("an architecture must be a JSON object")
        if "version" not in data:
            raise ArchitectureError("no version is given: an architecture of this program has one")
        content = dict(data)
        version = content.pop("version")
        if version != JSON_VERSION:
            raise ArchitectureError(
                f"version must be {JSON_VERSION}, but got {version!r}: "
                "another release of this program wrote it"
            )
        try:
            network = _ARCHITECTURE.validate_json(json.dumps(content))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            cause = first.get("ctx", {}).get("error")
            what = cause if isinstance(cause, ArchitectureError) else first["msg"]
            given = "" if isinstance(first["input"], dict | list) else f" (got {first['input']!r})"
            raise ArchitectureError(f"{where}: {what}{given}" if where else str(what)) from None
        count = sum(len(block.layers) for block in network.blocks)
        if count > MOST_LAYERS:
            raise ArchitectureError(f"blocks: {count:,} layers, but at most {MOST_LAYERS:,}")
        return network


_ARCHITECTURE = TypeAdapter(Architecture)


def _require_chain(layers: tuple[Layer, ...], where: str) -> None:
    for before, after in pairwise(layers):
        if before.out_channels != after.in_channels:
            raise ArchitectureError(
                f"in {where} a layer gives {before.out_channels} channels "
                f"but the next reads {after.in_channels}"
            )
