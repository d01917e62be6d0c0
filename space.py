"""The parametric generator: what a network may look like, and how choices become one.

An `Architecture` is four blocks, C1 to C4, and an output.  C1, C2 and C3 end in a
*transition*, which halves the feature map and sets the width of the next block.  A
`SearchSpace` is the sheet of choices; `SearchSpace.architecture` turns one value per
choice into the network that they mean.  Choices without effect (the expansion of a
convolution that does not expand, a shortcut that cannot fit) leave no trace in the
result, so two sets of choices that mean one network give equal architectures and equal
hashes.

Nothing here imports torch: a candidate is proposed and rejected as plain data.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from search.shown import Shown

JSON_VERSION = 1
BlockName = Literal["C1", "C2", "C3", "C4"]
BLOCK_NAMES: tuple[BlockName, ...] = get_args(BlockName)

Activation = Literal["relu", "gelu", "silu", "hardswish"]
Operator = Literal["dense", "separable", "inverted"]
Scalar = bool | int | float | str

# Bounds of what is ever meant as a small convolutional network.  They turn a slip of the
# keyboard (10^9 channels) into a message instead of an exhausted machine.
Channels = Annotated[int, Field(ge=1, le=65_536, strict=True)]
Kernel = Annotated[int, Field(ge=1, le=31, strict=True)]
Step = Annotated[int, Field(ge=1, le=64, strict=True)]
Padding = Annotated[int, Field(ge=0, le=1_024, strict=True)]
Probability = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class ArchitectureError(ValueError):
    """An architecture, or the JSON of one, that means no network."""


# --------------------------------------------------------------------------- networks


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
class Architecture(Shown):
    """A network of four blocks and an output.  `input` is (channels, height, width)."""

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
        content = dict(data)
        version = content.pop("version", None)
        if version != JSON_VERSION:
            raise ArchitectureError(
                f"version must be {JSON_VERSION}, but got {version!r}: "
                "another release of this program wrote it"
            )
        try:
            return _ARCHITECTURE.validate_json(json.dumps(content), extra="forbid")
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            cause = first.get("ctx", {}).get("error")
            what = cause if isinstance(cause, ArchitectureError) else first["msg"]
            given = "" if isinstance(first["input"], dict | list) else f" (got {first['input']!r})"
            raise ArchitectureError(f"{where}: {what}{given}" if where else str(what)) from None


_ARCHITECTURE = TypeAdapter(Architecture)


def _require_chain(layers: tuple[Layer, ...], where: str) -> None:
    for before, after in pairwise(layers):
        if before.out_channels != after.in_channels:
            raise ArchitectureError(
                f"in {where} a layer gives {before.out_channels} channels "
                f"but the next reads {after.in_channels}"
            )


# ---------------------------------------------------------------------------- choices


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Choice(_Frozen):
    """One of a list of values."""

    values: Annotated[tuple[Scalar, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Choice:
        if len({(type(value), value) for value in self.values}) != len(self.values):
            raise ValueError(f"choices must be distinct, but got {list(self.values)}")
        return self

    @model_serializer
    def _as_list(self) -> list[Scalar]:
        return list(self.values)

    def sample(self, rng: random.Random) -> Scalar:
        return self.values[int(rng.random() * len(self.values))]

    def __contains__(self, value: object) -> bool:
        return any(value == v and type(value) is type(v) for v in self.values)


class IntRange(_Frozen):
    """Integers from `low` to `high`, both included, in steps of `step`."""

    low: Annotated[int, Field(strict=True)]
    high: Annotated[int, Field(strict=True)]
    step: Annotated[int, Field(ge=1, strict=True)] = 1

    @model_validator(mode="after")
    def _ordered(self) -> IntRange:
        if self.low > self.high:
            raise ValueError(f"low <= high must hold, but got low={self.low}, high={self.high}")
        if (self.high - self.low) % self.step:
            raise ValueError(
                f"step must divide high - low, but got low={self.low}, high={self.high}, "
                f"step={self.step}"
            )
        return self

    def sample(self, rng: random.Random) -> int:
        return self.low + self.step * int(rng.random() * ((self.high - self.low) // self.step + 1))

    def nearest(self, value: float) -> int:
        """The member closest to `value`."""
        steps = round((value - self.low) / self.step)
        return min(max(self.low + self.step * steps, self.low), self.high)

    def __contains__(self, value: object) -> bool:
        return (
            isinstance(value, int)
            and self.low <= value <= self.high
            and not ((value - self.low) % self.step)
        )


class FloatRange(_Frozen):
    """Real numbers from `low` to `high`; with `log`, uniform in the logarithm."""

    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> FloatRange:
        if self.low > self.high:
            raise ValueError(f"low <= high must hold, but got low={self.low}, high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range must start above 0, but got low={self.low}")
        return self

    def sample(self, rng: random.Random) -> float:
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return min(max(math.exp(low + rng.random() * (high - low)), self.low), self.high)
        return self.low + rng.random() * (self.high - self.low)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


Domain = Choice | IntRange | FloatRange
Setting = Scalar | Domain


def setting(kind: type, *allowed: str, low: float = -math.inf, high: float = math.inf) -> Any:
    """The pydantic annotation of a study-file entry: one value of `kind`, a list of them
    to choose from, or (numbers) a range `{low, high}`.

    One value is fixed and no parameter of the study.  Strings must be among `allowed`,
    numbers within `low` and `high`.
    """

    def one(value: object) -> Scalar:
        if kind is str and isinstance(value, str):
            if value not in allowed:
                raise ValueError(f"must be one of {', '.join(allowed)}, but got {value!r}")
            return value
        if kind is bool and isinstance(value, bool):
            return value
        if kind is int and isinstance(value, int) and not isinstance(value, bool):
            number: int | float = value
        elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value)
        else:
            raise ValueError(f"must be {_KIND_NAMES[kind]}, but got {value!r}")
        if not low <= number <= high or math.isinf(number):
            raise ValueError(f"must lie in [{low:g}, {high:g}], but got {number!r}")
        return number

    def parse(value: object) -> Setting:
        if isinstance(value, Choice):
            value = value.values
        if isinstance(value, list | tuple):
            return Choice(values=tuple(one(member) for member in value))
        if isinstance(value, IntRange | FloatRange):
            value = value.model_dump()
        if isinstance(value, Mapping):
            if kind not in (int, float):
                raise ValueError(f"must be {_KIND_NAMES[kind]} or a list, but got a range")
            bounds = {**value, **{k: one(value[k]) for k in ("low", "high") if k in value}}
            return IntRange(**bounds) if kind is int else FloatRange(**bounds)
        return one(value)

    return BeforeValidator(parse)


_KIND_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


class TransitionSpace(_Frozen):
    """Choices for the 3x3 stride-2 convolution that ends C1, C2 and C3."""

    operator: Annotated[Setting, setting(str, "dense", "separable")] = "dense"
    dilation: Annotated[Setting, setting(int, low=1, high=8)] = 1
    bottleneck: Annotated[Setting, setting(bool)] = False


class BlockSpace(_Frozen):
    """Choices for the units of one block, and for the transition after it.

    A block of depth 0 is its transition alone; its other choices then mean nothing.

    `expansion` is the width of an inverted bottleneck over the block's; `squeeze_excite`
    the reduction of the gate, 0 for none.
    """

    depth: Annotated[Setting, setting(int, low=0, high=64)] = 1
    width: Annotated[Setting, setting(int, low=1, high=4096)] = 32
    operator: Annotated[Setting, setting(str, "dense", "separable", "inverted")] = "dense"
    kernel: Annotated[Setting, setting(int, low=3, high=15)] = 3
    dilation: Annotated[Setting, setting(int, low=1, high=16)] = 1
    residual: Annotated[Setting, setting(bool)] = False
    expansion: Annotated[Setting, setting(int, low=2, high=8)] = 2
    squeeze_excite: Annotated[Setting, setting(int, low=0, high=64)] = 0
    transition: TransitionSpace = TransitionSpace()

    @model_validator(mode="after")
    def _odd_kernels(self) -> BlockSpace:
        kernels = (
            self.kernel.values
            if isinstance(self.kernel, Choice)
            else (self.kernel.low, self.kernel.low + self.kernel.step)
            if isinstance(self.kernel, IntRange)
            else (self.kernel,)
        )
        if any(isinstance(kernel, int) and kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"kernel sizes must be odd, but got {list(kernels)}")
        return self


class Fill(_Frozen):
    """Scale widths together until a counted quantity lands in the top share of its limit."""

    limit: Literal["parameters", "macs"] = "parameters"
    share: Annotated[float, Field(alias="from", gt=0, lt=1, allow_inf_nan=False)] = 0.85


class SearchSpace(_Frozen, Shown):
    """All choices of a study's networks: `[space]` of the study file.

    `[space.block]` holds for every block, `[space.C1]` to `[space.C4]` overrule it.
    `head` is the width of a depthwise separable unit that closes C4, 0 for none.
    """

    C1: BlockSpace = BlockSpace()
    C2: BlockSpace = BlockSpace()
    C3: BlockSpace = BlockSpace()
    C4: BlockSpace = BlockSpace()
    head: Annotated[Setting, setting(int, low=0, high=4096)] = 0
    activation: Annotated[Setting, setting(str, "relu", "gelu", "silu", "hardswish")] = "relu"
    dropout: Annotated[Setting, setting(float, low=0.0, high=0.9)] = 0.0
    classifier: Annotated[Setting, setting(str, "linear", "conv")] = "linear"
    fill: Fill | None = None

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, data: Any) -> Any:
        """Copies `[space.block]` into the four blocks, under what they say themselves."""
        if not isinstance(data, Mapping) or "block" not in data:
            return data
        content = dict(data)
        common = content.pop("block")
        if not isinstance(common, Mapping):
            raise ValueError("block must be a table")
        for name in BLOCK_NAMES:
            own = content.get(name, {})
            if isinstance(own, Mapping):
                content[name] = _merged(common, own)
        return content

    @cached_property
    def _settings(self) -> dict[str, Setting]:
        """Every entry by its flat name, in the order of computation."""
        entries: dict[str, Setting] = {}
        for name in BLOCK_NAMES:
            block: BlockSpace = getattr(self, name)
            for key in _BLOCK_KEYS:
                entries[f"{name}.{key}"] = getattr(block, key)
            if name != "C4":
                for key in TransitionSpace.model_fields:
                    entries[f"{name}.transition.{key}"] = getattr(block.transition, key)
        for key in ("head", "activation", "dropout", "classifier"):
            entries[key] = getattr(self, key)
        return entries

    @cached_property
    def parameters(self) -> dict[str, Domain]:
        """The flat, fixed set of the study's architecture parameters."""
        return {
            name: entry
            for name, entry in self._settings.items()
            if isinstance(entry, Choice | IntRange | FloatRange)
        }

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        return {k: v for k, v in self._settings.items() if k not in self.parameters}

    def sample(self, rng: random.Random) -> dict[str, Scalar]:
        """One uniform, independent value per parameter; no rule is asked."""
        return {name: domain.sample(rng) for name, domain in self.parameters.items()}

    def architecture(
        self,
        choices: Mapping[str, Scalar],
        *,
        input: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
    ) -> Architecture:
        """The network that `choices`, one value per entry of `parameters`, means."""
        value: dict[str, Any] = {**self._fixed, **choices}
        activation, dropout = value["activation"], value["dropout"]
        widths = [value[f"{name}.width"] for name in BLOCK_NAMES]
        blocks = []
        channels = input[0]
        for index, name in enumerate(BLOCK_NAMES):
            width = widths[index]
            unit = (
                value[f"{name}.operator"],
                value[f"{name}.kernel"],
                value[f"{name}.dilation"],
                value[f"{name}.residual"],
                value[f"{name}.expansion"],
                value[f"{name}.squeeze_excite"],
                activation,
                dropout,
            )
            depth = value[f"{name}.depth"]
            units = [_unit(channels, width, *unit)] if depth else []
            units += [_unit(width, width, *unit)] * (depth - 1)
            channels = width if depth else channels
            transition: tuple[Layer, ...] = ()
            if name == "C4":
                if value["head"]:
                    units.append(_head(channels, value["head"], activation, dropout))
            else:
                next_width = widths[index + 1]
                transition = _transition(
                    channels,
                    next_width,
                    value[f"{name}.transition.operator"],
                    value[f"{name}.transition.dilation"],
                    value[f"{name}.transition.bottleneck"],
                    activation,
                )
                channels = next_width
            blocks.append(Block(name, tuple(units), transition))
        return Architecture(tuple(blocks), _output(classes, value["classifier"]), input)


_BLOCK_KEYS = tuple(key for key in BlockSpace.model_fields if key != "transition")


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    result = {**common, **own}
    both = common.get("transition"), own.get("transition")
    if isinstance(both[0], Mapping) and isinstance(both[1], Mapping):
        result["transition"] = {**both[0], **both[1]}
    return result


# Candidates share most of their units, so each distinct one is built once.
@lru_cache(maxsize=65_536)
def _unit(
    channels: int,
    width: int,
    operator: Operator,
    kernel: int,
    dilation: int,
    residual: bool,
    expansion: int,
    squeeze_excite: int,
    activation: Activation,
    dropout: float,
) -> Unit:
    padding = dilation * (kernel - 1) // 2
    if operator == "dense":
        layers: tuple[Layer, ...] = (
            Layer(
                channels,
                width,
                kernel,
                padding=padding,
                dilation=dilation,
                activation=activation,
                dropout=dropout,
            ),
        )
    elif operator == "separable":
        layers = (
            Layer(
                channels,
                channels,
                kernel,
                padding=padding,
                dilation=dilation,
                groups=channels,
                norm=False,
            ),
            Layer(channels, width, 1, activation=activation, dropout=dropout),
        )
    else:
        hidden = channels * expansion
        layers = (
            Layer(channels, hidden, 1, activation=activation),
            Layer(
                hidden,
                hidden,
                kernel,
                padding=padding,
                dilation=dilation,
                groups=hidden,
                activation=activation,
            ),
            Layer(hidden, width, 1, dropout=dropout),
        )
    return Unit(
        layers,
        residual=residual and channels == width,
        squeeze_excite=max(1, width // squeeze_excite) if squeeze_excite else 0,
    )


def _head(channels: int, width: int, activation: Activation, dropout: float) -> Unit:
    return _unit(channels, width, "separable", 3, 1, False, 1, 0, activation, dropout)


@lru_cache(maxsize=65_536)
def _transition(
    channels: int,
    width: int,
    operator: Operator,
    dilation: int,
    bottleneck: bool,
    activation: Activation,
) -> tuple[Layer, ...]:
    before: tuple[Layer, ...] = ()
    if bottleneck:
        before = (Layer(channels, max(1, channels // 2), 1, activation=activation),)
        channels = max(1, channels // 2)
    if operator == "separable":
        return (
            *before,
            Layer(
                channels,
                channels,
                3,
                stride=2,
                padding=dilation,
                dilation=dilation,
                groups=channels,
                norm=False,
            ),
            Layer(channels, width, 1, activation=activation),
        )
    return (
        *before,
        Layer(
            channels, width, 3, stride=2, padding=dilation, dilation=dilation, activation=activation
        ),
    )


@lru_cache(maxsize=64)
def _output(classes: int, classifier: Literal["linear", "conv"]) -> Output:
    return Output(classes, classifier)
