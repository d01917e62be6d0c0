"""The sheet of choices: which networks a study may propose.

`SearchSpace.architecture` turns one value per choice into the network that they mean.
C1, C2 and C3 end in a *transition*, which sets the width of the next block and halves the
feature map once, twice or not at all.  So three transitions make 0 to 6 halvings: a study
file's space has as many as its `downsampling` limit asks for, unless it says otherwise.
More halvings before the first units, as for large images, are a C1 of depth 0.

Choices without effect (the expansion of a convolution that does not expand, a shortcut that
cannot fit) leave no trace in the result, so two sets of choices that mean one network give
equal architectures and equal hashes.

Nothing here imports torch: a candidate is proposed and rejected as plain data.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from search.domains import Choice, Domain, FloatRange, Frozen, IntRange, Scalar, Setting, setting
from search.networks import operators
from search.networks.architecture import BLOCK_NAMES, Activation, Architecture, Block, Layer
from search.networks.operators import OPERATORS

MOST_HALVINGS = 2  # of one transition


class TransitionSpace(Frozen):
    """Choices for the 3x3 convolutions that end C1, C2 and C3.

    `halvings` of them in a row have stride 2.  With 0 there is one that is dilated instead of
    strided: `dilation` is doubled there, and once more for each such transition before it, so
    that kernels reach as far as strides would have let them (à trous; Holschneider et al., 1989).
    """

    halvings: Annotated[Setting, setting(int, low=0, high=MOST_HALVINGS)] = 1
    operator: Annotated[Setting, setting(str, "dense", "separable")] = "dense"
    dilation: Annotated[Setting, setting(int, low=1, high=8)] = 1
    bottleneck: Annotated[Setting, setting(bool)] = False


class BlockSpace(Frozen):
    """Choices for the units of one block, and for the transition after it.

    A block of depth 0 is its transition alone; its other choices then mean nothing.

    `expansion` is the width of an inverted bottleneck over the block's; `squeeze_excite`
    the reduction of the gate, 0 for none.
    """

    depth: Annotated[Setting, setting(int, low=0, high=64)] = 1
    width: Annotated[Setting, setting(int, low=1, high=4096)] = 32
    operator: Annotated[Setting, setting(str, *OPERATORS)] = "dense"
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


class Fill(Frozen):
    """Scale widths together until a counted quantity lands in the top share of its limit."""

    limit: Literal["parameters", "macs"] = "parameters"
    share: Annotated[float, Field(alias="from", gt=0, lt=1, allow_inf_nan=False)] = 0.85


class SearchSpace(Frozen):
    """All choices of a study's networks: `[space]` of the study file.

    `[space.block]` holds for every block, `[space.C1]` to `[space.C4]` overrule it.
    `head` is the width of a depthwise separable unit that closes C4, 0 for none.
    """

    C1: BlockSpace = BlockSpace()
    C2: BlockSpace = BlockSpace()
    C3: BlockSpace = BlockSpace()
    C4: BlockSpace = BlockSpace()
    head: Annotated[Setting, setting(int, low=0, high=4096)] = 0
    activation: Annotated[Setting, setting(str, *get_args(Activation))] = "relu"
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
    def settings(self) -> dict[str, Setting]:
        """Every entry by its flat name, in the order of computation; a single value is fixed."""
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
            for name, entry in self.settings.items()
            if isinstance(entry, Choice | IntRange | FloatRange)
        }

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        return {k: v for k, v in self.settings.items() if k not in self.parameters}

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
        channels, spread = input[0], 1
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
            units = [operators.unit(channels, width, *unit)] if depth else []
            units += [operators.unit(width, width, *unit)] * (depth - 1)
            channels = width if depth else channels
            transition: tuple[Layer, ...] = ()
            if name == "C4":
                if value["head"]:
                    units.append(operators.head(channels, value["head"], activation, dropout))
            else:
                next_width = widths[index + 1]
                halvings = value[f"{name}.transition.halvings"]
                spread *= 1 if halvings else 2
                transition = operators.transition(
                    channels,
                    next_width,
                    halvings,
                    value[f"{name}.transition.operator"],
                    value[f"{name}.transition.dilation"] * (1 if halvings else spread),
                    value[f"{name}.transition.bottleneck"],
                    activation,
                )
                channels = next_width
            blocks.append(Block(name, tuple(units), transition))
        return Architecture(tuple(blocks), operators.output(classes, value["classifier"]), input)


_BLOCK_KEYS = tuple(key for key in BlockSpace.model_fields if key != "transition")


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    result = {**common, **own}
    both = common.get("transition"), own.get("transition")
    if isinstance(both[0], Mapping) and isinstance(both[1], Mapping):
        result["transition"] = {**both[0], **both[1]}
    return result


def with_halvings(space: Mapping[str, Any], total: int) -> dict[str, Any]:
    """`[space]` of a study file in which the transitions share `total` halvings, as evenly as
    can be and the first ones first; those that it gives a number leave the rest to the others.
    Nothing is shared where it says what all have."""
    said = {name: _halvings(space.get(name, {})) for name in ("block", *BLOCK_NAMES[:-1])}
    if said.pop("block") is not None:
        return dict(space)
    rest = max(0, total - sum(number for number in said.values() if isinstance(number, int)))
    free = [name for name, number in said.items() if not isinstance(number, int)]
    result = dict(space)
    for index, name in enumerate(free):
        own = space.get(name, {})
        number = (rest + len(free) - 1 - index) // len(free)
        if isinstance(own, Mapping):
            share = {"transition": {"halvings": min(number, MOST_HALVINGS)}}
            result[name] = _merged(share, own)
    return result


def _halvings(block: object) -> object:
    """What a section of `[space]` says of them, as it is written; nothing where it does not."""
    transition = block.get("transition") if isinstance(block, Mapping) else None
    return transition.get("halvings") if isinstance(transition, Mapping) else None
