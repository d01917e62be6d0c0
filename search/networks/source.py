"""An `Architecture` as the PyTorch file that a person would have written.

The file imports torch alone.  It has one class per kind of unit that the network uses;
what varies between units of a kind is an argument, what does not is a number in the class.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from search.networks.architecture import Activation, Architecture, Block, Layer, Unit
from search.networks.operators import OPERATORS, operator_of, spatial_of
from search.templates import template

LINE_LENGTH = 100
_ACTIVATIONS: dict[Activation, str] = {
    "relu": "nn.ReLU()",
    "relu6": "nn.ReLU6()",
    "gelu": "nn.GELU()",
    "silu": "nn.SiLU()",
    "hardswish": "nn.Hardswish()",
}
_DOCSTRINGS = {
    "Pointwise": "A 1x1 convolution.",
    "Depthwise": "A convolution with one filter per channel.",
    "Downsampling": "A strided convolution.",
    "SeparableDownsampling": "A strided depthwise convolution, then a pointwise one.",
}


def generate(
    architecture: Architecture,
    *,
    title: str,
    facts: Sequence[str],
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> str:
    """The source of `model.py`; `title` and the lines `facts` are its docstring."""
    children = {block.name: _children(block) for block in architecture.blocks}
    parts = [part for some in children.values() for child in some for part in child.parts]
    kinds = _kinds(parts)
    blocks: dict[str, list[str]] = {
        **{name: _listed(some, kinds) for name, some in children.items()},
        "O": [_indented(module) for module in _output(architecture)],
    }
    units = [unit for block in architecture.blocks for unit in block.units]
    return template("model.py.jinja").render(
        title="\n".join(textwrap.wrap(title, LINE_LENGTH - 4)),
        facts=facts,
        shape=", ".join(map(str, architecture.input)),
        outputs=architecture.output.classes,
        mean=tuple(round(value, 6) for value in mean),
        std=tuple(round(value, 6) for value in std),
        classes=_Call("", tuple(_quoted(name) for name in classes)).lines(0, "CLASSES = "),
        kinds=[kind.source() for kind in dict.fromkeys(kinds.values())],
        gated=any(unit.squeeze_excite for unit in units),
        residual=any(unit.residual for unit in units),
        blocks=list(blocks.items()),
    )  # fmt: skip


def state_key(architecture: Architecture, key: str) -> str:
    """The name in the generated network's `state_dict` of what `search.networks.module.build`
    calls `key`.

    They differ in transitions alone, whose modules `build` lines up after the units.
    """
    name, index, *rest = key.split(".")
    block = next((block for block in architecture.blocks if block.name == name), None)
    if block is None or int(index) < len(block.units):
        return key
    position = int(index) - len(block.units)
    for number, child in enumerate(_children(block)[len(block.units) :], len(block.units)):
        length = sum(len(_modules(layer)) for part in child.parts for layer in part.layers)
        if position < length:
            return ".".join([name, str(number), str(position), *rest])
        position -= length
    raise KeyError(f"{key}: no tensor of this architecture")


@dataclass(frozen=True)
class _Part:
    """Layers that one class stands for; `gate` is the hidden width of a gate after them."""

    name: str
    layers: tuple[Layer, ...]
    gate: int = 0

    @property
    def spatial(self) -> Layer:
        """The layer that may look at more than one pixel."""
        return spatial_of(self.layers)

    @property
    def features(self) -> tuple[object, ...]:
        """What parts must share to be instances of one class."""
        layers = ((one.bias, one.norm, one.activation, one.dropout) for one in self.layers)
        return self.name, *layers

    @property
    def centered(self) -> bool:
        """The padding follows from kernel and dilation."""
        return self.spatial.padding == self.spatial.dilation * (self.spatial.kernel // 2)

    @property
    def words(self) -> tuple[str, ...]:
        """What the class calls the channels before and after each layer."""
        found = operator_of(self.layers) if len(self.layers) > 1 else None
        return OPERATORS[found[0]].channels if found else ("inputs", "outputs")

    @property
    def channels(self) -> tuple[int, ...]:
        numbers = (self.layers[0].in_channels, *(one.out_channels for one in self.layers))
        return tuple(dict(zip(self.words, numbers, strict=True)).values())


@dataclass(frozen=True)
class _Child:
    """One entry of a block: one part or several in a row, maybe under a shortcut."""

    parts: tuple[_Part, ...]
    residual: bool = False
    gate: tuple[int, int] | None = None

    def expression(self, kinds: dict[_Part, _Kind]) -> _Call:
        calls = [kinds[part].call(part) for part in self.parts]
        body = calls[0]
        if len(calls) > 1 or self.gate:
            gate = (_Call("SqueezeExcite", self.gate),) if self.gate else ()
            body = _Call("nn.Sequential", (*(call.starred() for call in calls), *gate))
        return _Call("Residual", (body,)) if self.residual else body


def _children(block: Block) -> tuple[_Child, ...]:
    return (*map(_unit_child, block.units), *_transition_children(block.transition))


def _unit_child(unit: Unit) -> _Child:
    name = _name(unit.layers)
    if name:
        name = f"Gated{name}" if unit.squeeze_excite else name
        return _Child((_Part(name, unit.layers, unit.squeeze_excite),), unit.residual)
    gate = (unit.out_channels, unit.squeeze_excite) if unit.squeeze_excite else None
    parts = tuple(_Part(_single_name(layer), (layer,)) for layer in unit.layers)
    return _Child(parts, unit.residual, gate)


def _transition_children(layers: tuple[Layer, ...]) -> tuple[_Child, ...]:
    if not layers:
        return ()
    taken = 2 if _name(layers[:2]).startswith("Separable") else 1
    own = _Part(_name(layers[:taken]), layers[:taken])
    return (_Child((own,)), *_transition_children(layers[taken:]))


def _name(layers: tuple[Layer, ...]) -> str:
    """The kind that these layers are together, empty for none."""
    if len(layers) == 1:
        return _single_name(layers[0])
    found, spatial = operator_of(layers), spatial_of(layers)
    if found is None or spatial.in_channels == 1:  # one channel: nothing tells groups from none
        return ""
    name = OPERATORS[found[0]].name
    strided = f"{name}Downsampling"
    return strided if spatial.stride > 1 and strided in _DOCSTRINGS else name


def _single_name(layer: Layer) -> str:
    if layer.depthwise:
        return "Depthwise"
    if layer.stride > 1:
        return "Downsampling"
    return "Pointwise" if _plain_pointwise(layer) else "Conv"


def _plain_pointwise(layer: Layer) -> bool:
    return layer.pointwise and (layer.stride, layer.padding, layer.dilation) == (1, 0, 1)


@dataclass(frozen=True, eq=False)
class _Kind:
    """A class of the file, and all the parts that are instances of it."""

    name: str
    parts: tuple[_Part, ...]

    def _common(self, key: str) -> int:
        values = Counter(getattr(part.spatial, key) for part in self.parts)
        return int(values.most_common(1)[0][0])

    @property
    def _centered(self) -> bool:
        return all(part.centered for part in self.parts)

    @property
    def _varying(self) -> tuple[str, ...]:
        keys = ["kernel", "stride", "dilation"]
        if not self.parts[0].spatial.depthwise:
            keys.append("groups")
        if not self._centered:
            keys.append("padding")
        return tuple(k for k in keys if len({getattr(p.spatial, k) for p in self.parts}) > 1)

    def call(self, part: _Part) -> _Call:
        """How the file makes `part`."""
        given = {key: getattr(part.spatial, key) for key in self._varying}
        keywords = [f"{k}={v}" for k, v in given.items() if v != self._common(k)]
        if part.gate:
            keywords.append(f"gate={part.gate}")
        return _Call(self.name, (*part.channels, *keywords))

    def source(self) -> str:
        """The definition of the class."""
        first = self.parts[0]
        arguments = [f"{name}: int" for name in dict.fromkeys(first.words)]
        known = _DOCSTRINGS | {one.name: one.docstring for one in OPERATORS.values()}
        # What follows the channels is given by name.
        keywords = [f"{key}: int = {self._common(key)}" for key in self._varying]
        keywords += ["gate: int"] if first.gate else []
        star = ["*"] if keywords else []
        head = _Call("def __init__", ("self", *arguments, *star, *keywords))
        return "\n".join(
            [
                f"class {self.name}(nn.Sequential):",
                f'    """{known[first.name.removeprefix("Gated")]}"""',
                "",
                head.lines(4, suffix=" -> None:"),
                _Call("super().__init__", tuple(self._modules())).lines(8, explode=True),
            ]
        )

    def _modules(self) -> Iterable[_Call | str]:
        first = self.parts[0]
        for layer, (reads, gives) in zip(first.layers, pairwise(first.words), strict=True):
            shape = self._geometry(reads) if layer is first.spatial else ["1"]
            bias = [] if layer.bias else ["bias=False"]
            yield _Call("nn.Conv2d", (reads, gives, *shape, *bias))
            yield from (text.format(gives) for text in _modules(layer)[1:])
        if first.gate:
            yield "SqueezeExcite(outputs, gate)"

    def _geometry(self, reads: str) -> list[str]:
        values = {
            key: key if key in self._varying else str(self._common(key))
            for key in ("kernel", "stride", "padding", "dilation", "groups")
        }
        if self._centered:
            values["padding"] = self._padding()
        if self.parts[0].spatial.depthwise:
            values["groups"] = reads
        defaults = {"stride": "1", "padding": "0", "dilation": "1", "groups": "1"}
        named = [f"{k}={values[k]}" for k, default in defaults.items() if values[k] != default]
        return [values["kernel"], *named]

    def _padding(self) -> str:
        kernel, dilation = self._common("kernel"), self._common("dilation")
        if "kernel" in self._varying:
            half = "kernel // 2"
            if "dilation" in self._varying:
                return f"dilation * ({half})"
            return half if dilation == 1 else f"{dilation} * ({half})"
        if "dilation" in self._varying:
            return {0: "0", 1: "dilation"}.get(kernel // 2, f"{kernel // 2} * dilation")
        return str(dilation * (kernel // 2))


def _kinds(parts: Iterable[_Part]) -> dict[_Part, _Kind]:
    """The class of every part; kinds that share a name are numbered."""
    groups: dict[tuple[object, ...], list[_Part]] = {}
    for part in parts:
        groups.setdefault(part.features, []).append(part)
    used: Counter[str] = Counter()
    kinds = {}
    for members in groups.values():
        name = members[0].name
        used[name] += 1
        number = "" if used[name] == 1 else str(used[name])
        kind = _Kind(name + number, tuple(members))
        kinds.update(dict.fromkeys(members, kind))
    return kinds


def _modules(layer: Layer) -> list[str]:
    """The modules of a layer; `{}` stands for its channels."""
    modules = ["nn.Conv2d"]
    if layer.norm:
        modules.append("nn.BatchNorm2d({})")
    if layer.activation is not None:
        modules.append(_ACTIVATIONS[layer.activation])
    if layer.dropout:
        modules.append(f"nn.Dropout({layer.dropout})")
    return modules


def _output(architecture: Architecture) -> Iterable[_Call | str]:
    output, features = architecture.output, architecture.features
    pooled = (output.pool_kernel, output.pool_stride)
    yield _Call("nn.AvgPool2d", pooled) if output.pool_kernel else "nn.AdaptiveAvgPool2d(1)"
    if output.dropout:
        yield f"nn.Dropout({output.dropout})"
    bias = [] if output.bias else ["bias=False"]
    if output.classifier == "conv":
        yield _Call("nn.Conv2d", (features, output.classes, 1, *bias))
        yield "nn.Flatten()"
    else:
        yield "nn.Flatten()"
        yield _Call("nn.Linear", (features, output.classes, *bias))


@dataclass(frozen=True)
class _Call:
    """A call as text, broken over lines as ruff and black break it."""

    name: str
    arguments: tuple[_Call | str | int, ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.arguments))})"

    def starred(self) -> _Call:
        return _Call(f"*{self.name}", self.arguments)

    def lines(self, indent: int, prefix: str = "", suffix: str = "", explode: bool = False) -> str:
        """The call at `indent`; `explode` gives each argument its line."""
        margin = " " * indent
        whole = f"{margin}{prefix}{self}{suffix}"
        if len(whole) <= LINE_LENGTH and not explode:
            return whole
        inner = f"{margin}    {', '.join(map(str, self.arguments))}"
        if len(inner) > LINE_LENGTH or explode:
            inner = "\n".join(_indented(one, indent + 4, ",") for one in self.arguments)
        return f"{margin}{prefix}{self.name}(\n{inner}\n{margin}){suffix}"


def _indented(item: _Call | str | int, indent: int = 12, suffix: str = ",") -> str:
    if isinstance(item, _Call):
        return item.lines(indent, suffix=suffix)
    return f"{' ' * indent}{item}{suffix}"


def _listed(children: Iterable[_Child], kinds: dict[_Part, _Kind]) -> list[str]:
    """The entries of a block; what repeats stands once, in a loop."""
    entries = []
    for child, same in groupby(children):
        call, times = child.expression(kinds), len(list(same))
        if times == 1:
            entries.append(call.lines(12, suffix=","))
            continue
        loop = f"for _ in range({times})"
        line = f"{' ' * 12}*({call} {loop}),"
        if len(line) > LINE_LENGTH:
            margin = " " * 12
            line = f"{margin}*(\n{call.lines(16)}\n{margin}    {loop}\n{margin}),"
        entries.append(line)
    return entries


def _quoted(text: str) -> str:
    # A directory's name may hold any character; JSON's escapes are Python's too.
    return json.dumps(text, ensure_ascii=not text.isprintable())
