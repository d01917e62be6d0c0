"""What the numbers of a module do not show, and its reader should know."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from torch import Tensor, nn

from search.analysis.graph import Graph, Node, ancestors, image_reaches, last_maps, widest_last


def about_pooling(graph: Graph, output: int, counted: Mapping[int, Node]) -> Iterator[str]:
    """Pooling that leaves one cell is global; `counted` are the local operations instead."""
    pooling = sorted(ancestors(graph.nodes, output) & set(counted))
    nodes = tuple(counted.get(index, node) for index, node in enumerate(graph.nodes))
    local = replace(graph, nodes=nodes, last=last_maps(nodes, output))
    field, other = _field(graph), _field(local)
    if pooling and field != other:
        names = ", ".join(dict.fromkeys(f"{nodes[i].kind} {nodes[i].name}" for i in pooling))
        yield (
            f"{names}: pooling that leaves one cell is global and does not count; counted as a "
            f"local operation the receptive field would be {other}"
        )


def _field(graph: Graph) -> str:
    spans = [reach and reach.span for reach in widest_last(graph, image_reaches(graph))]
    return str(spans[0]) if len(set(spans)) == 1 else " x ".join(map(str, spans))


def about_weights(
    module: nn.Module, used: Collection[int], foreign: Mapping[int, Tensor]
) -> Iterator[str]:
    """Weights that are counted, or not, against what one may expect.

    `used` are the ids of the parameters that ran, `foreign` those that no module registers.
    """
    parameters = dict(module.named_parameters())
    trainable = [p.numel() for p in parameters.values() if p.requires_grad]
    frozen = [p.numel() for p in parameters.values() if not p.requires_grad]
    if frozen:
        yield (
            f"{sum(frozen):,} weights are frozen (requires_grad=False) and do not count; with "
            f"them there are {sum(trainable) + sum(frozen):,} parameters"
        )
    if foreign:
        count = sum(weight.numel() for weight in foreign.values())
        yield (
            f"{count:,} weights run that the module does not register (layers in a plain list or "
            f"dict?) and do not count; with them there are {sum(trainable) + count:,} parameters"
        )
    idle = {n: p.numel() for n, p in parameters.items() if p.requires_grad and id(p) not in used}
    if idle:
        owners = list(dict.fromkeys(name.rpartition(".")[0] or name for name in idle))
        more = f" and {len(owners) - 3} more" if len(owners) > 3 else ""
        yield (
            f"{sum(idle.values()):,} of the parameters counted are of layers that do not run: "
            f"{', '.join(owners[:3])}{more}"
        )
