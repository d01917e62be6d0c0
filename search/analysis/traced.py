"""A module that somebody else wrote, as the checker found it: a network beside `Architecture`.

Its code stays where it is; what a trial carries of it is data, and running it takes somebody
who names the code (`search.training.modules`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from search.analysis.facts import macs_at
from search.analysis.graph import CONVOLUTIONS
from search.analysis.table import Analysis, analyze
from search.networks.architecture import Architecture, ArchitectureError
from search.networks.glance import glance
from search.networks.network import Network

JSON_VERSION = 1

_Side = Annotated[int, Field(ge=1, le=2**20)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class TracedModule(Network):
    """The network that the factory `module` makes: a file's absolute path or a dotted name, a
    colon, and the factory's name.

    `sha256` is that of the source file; `outputs` has one entry a class.  `analysis` is what the
    checker found on images of `input`, `sizes` are (height, width, MACs) of the smaller ones that
    its training sees.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # of the parts, too

    module: str = field(compare=False)
    sha256: _Digest
    input: tuple[_Side, _Side, _Side]
    outputs: Annotated[int, Field(ge=2, le=100_000)]
    analysis: Analysis = field(compare=False)
    sizes: tuple[tuple[_Side, _Side, int], ...] = ()

    @property
    def classes(self) -> int:
        return self.outputs

    @property
    def name(self) -> str:
        """What people call it, which tells nothing about a machine: `mine.py:network`."""
        return self.module.replace("\\", "/").rpartition("/")[2]

    @property
    def key(self) -> str:
        """The code that it needs, wherever that lies: the factory's name and the digest."""
        return code_key(self.module, self.sha256)

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that name this network, wherever its code lies."""
        counts = (self.analysis.parameters, self.analysis.macs, self.analysis.receptive_field)
        content = json.dumps([self.key, self.input, self.classes, *counts])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, with the version of its format."""
        return {"version": JSON_VERSION, **_MODULE.dump_python(self, mode="json")}


_MODULE = TypeAdapter(TracedModule)


def code_key(module: str, sha256: str) -> str:
    """What names the code of the factory `module`, wherever its file lies."""
    return f"{module.rpartition(':')[2]}:{sha256}"


def network_of(data: object) -> Network:
    """The network whose `to_json` gave `data`.

    Raises:
        ArchitectureError: naming the key and the value that mean none.
    """
    if not isinstance(data, Mapping) or "module" not in data:
        return Architecture.from_json(data)
    content = dict(data)
    version = content.pop("version", None)
    if version != JSON_VERSION:
        raise ArchitectureError(f"version must be {JSON_VERSION}, but got {version!r}")
    try:
        return _MODULE.validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArchitectureError(f"{where}: {first['msg']}") from None


def module_of(network: Network) -> TracedModule | None:
    """`network` where it is a module, whose code is no data; None for any other."""
    return network if isinstance(network, TracedModule) else None


@analyze.register
def _(network: TracedModule) -> Analysis:
    return network.analysis


@macs_at.register
def _(network: TracedModule, size: tuple[int, int]) -> int:
    known = {(height, width): macs for height, width, macs in network.sizes}
    return network.analysis.macs if size == network.input[1:] else known[size]


@glance.register
def _(network: TracedModule) -> str:
    kinds = [row.kind for row in network.analysis.layers]
    convolutions = sum(kind in CONVOLUTIONS for kind in kinds)
    return f"{network.name}  {convolutions} of {len(kinds)} layers are convolutions"
