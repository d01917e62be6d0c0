"""Modules that somebody else wrote: read for a study, and built again where they are named.

A database says which code a trial needs, but who may write a database is not to say what runs
here.  So a process runs what its own command line names, and only where it is, to the byte, what
the trial was made of; paths in a database are for people.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from search.analysis.table import Analysis, analyze
from search.analysis.traced import TracedModule
from search.analysis.tracing.loading import ModuleSource, built, in_words, read_source
from search.analysis.tracing.trace import trace
from search.config.candidate import Recipe
from search.errors import ConfigError, MachineError
from search.networks.architecture import Architecture
from search.networks.module import build
from search.networks.network import Network
from search.training.foreign import Foreign


def read(
    source: ModuleSource, input: tuple[int, int, int], classes: int, recipe: Recipe
) -> TracedModule:
    """The network that `source` makes for images of `input`, which `recipe` can train.

    Raises:
        ConfigError: it cannot: says why.
        TraceError: the factory fails, or an operation of which it is not known what it reads.
    """
    module, other = built(source.factory), built(source.factory)
    shared = {*map(id, module.parameters())} & {*map(id, other.parameters())}
    if module is other or shared:
        raise ConfigError(f"{source.module}: must make a fresh module each time it is called")
    _require_copyable(source, other, recipe)
    _require_trainable(source, module, input, classes)
    sizes = [size for size in recipe.sizes(input[1:]) if size != input[1:]]
    smaller = tuple((*size, _macs(source, other, (input[0], *size))) for size in sizes)
    analysis = analyze(trace(other, input))
    return TracedModule(source.module, source.sha256, input, classes, analysis, smaller)


def _macs(source: ModuleSource, module: nn.Module, input: tuple[int, int, int]) -> int:
    """Multiply-adds for one image of the smaller ones that a recipe begins with."""
    _run(source, module, input, "; --set training.small_epochs=0 trains on full ones")
    return analyze(trace(module, input)).macs


def _require_copyable(source: ModuleSource, module: nn.Module, recipe: Recipe) -> None:
    try:
        if recipe.average:
            copy.deepcopy(module)
    except Exception as error:  # its own code may copy
        raise ConfigError(
            f"{source.module}: cannot be copied, as the average of its weights asks: "
            f"{in_words(error)}; --set training.average=0 goes without"
        ) from None


def _require_trainable(
    source: ModuleSource, module: nn.Module, input: tuple[int, int, int], classes: int
) -> None:
    """Accepts a module that gives logits, and has weights that decide them."""
    for training in (False, True):
        logits = _run(source, module.train(training), input)
        given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if not isinstance(logits, Tensor) or logits.shape != (2, classes):
            mode = " in training" if training else ""
            raise ConfigError(
                f"{source.module}: must give {[2, classes]} for 2 images, a number for each of "
                f"the study's classes, but gives {given}{mode}"
            )
    if not logits.requires_grad:
        raise ConfigError(f"{source.module}: no trainable weight decides what it gives")


def _run(source: ModuleSource, module: nn.Module, input: tuple[int, ...], way: str = "") -> Any:
    generator = torch.Generator().manual_seed(0)
    try:
        return module(torch.randn(2, *input, generator=generator))
    except Exception as error:
        raise ConfigError(
            f"{source.module}: does not take the study's images {list(input)}: "
            f"{in_words(error)}{way}"
        ) from None


class Modules:
    """The modules that this process may run: those that its command line names."""

    def __init__(self, targets: Sequence[str] = ()) -> None:
        self._targets = targets

    @cached_property
    def _sources(self) -> dict[str, ModuleSource]:
        return {source.key: source for source in map(read_source, self._targets)}

    @property
    def keys(self) -> frozenset[str]:
        """Those of `TracedModule.key`.

        Raises:
            TraceError: one cannot be imported.
        """
        return frozenset(self._sources)

    def require(self, network: Network) -> None:
        """Accepts a network that this process may build.

        Raises:
            MachineError: it is code that is named nowhere, or another than it was.
        """
        if isinstance(network, TracedModule) and network.key not in self._sources:
            raise MachineError(self._lacking(network))

    def _lacking(self, network: TracedModule) -> str:
        name, _, digest = network.key.partition(":")
        for source in self._sources.values():
            if source.key.startswith(f"{name}:"):
                return (
                    f"{source.module}: the file is another than when the trial was made (SHA-256 "
                    f"{source.sha256[:12]}…, then {digest[:12]}…); bring that one back, or train "
                    "this one as a trial of its own"
                )
        return (
            f"{network.name} is code, which runs only where it is named: --module {network.module}"
        )

    def build(self, network: Network) -> nn.Module:
        """`network` with fresh weights.

        Raises:
            MachineError: as `require`; or the code makes another network now.
        """
        if isinstance(network, TracedModule):
            return self._foreign(network)
        assert isinstance(network, Architecture)
        return build(network)

    def _foreign(self, network: TracedModule) -> Foreign:
        self.require(network)
        module = built(self._sources[network.key].factory)
        now, then = _counts(analyze(trace(module, network.input))), _counts(network.analysis)
        if now != then:
            raise MachineError(
                f"{network.name}: {now}, but {then} when the trial was made: a file that it "
                "imports is another"
            )
        return Foreign(module, network.input)


NONE = Modules()


def _counts(analysis: Analysis) -> str:
    field = "x".join(map(str, analysis.receptive_field))
    return f"{analysis.parameters:,} parameters, {analysis.macs:,} MACs, receptive field {field}"
