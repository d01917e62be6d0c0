from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from constraints import Limits, check
from search.analysis.tracing.errors import TraceError, UnknownOperationError
from search.analysis.tracing.loading import load_factory, make
from search.analysis.tracing.trace import trace
from tests import oracle
from tests.analysis.tracing.net import Net, analyzed

C = nn.Conv2d

# ------------------------------------------------------------------------------ counts


def test_a_layer_called_twice_counts_once_in_parameters_and_twice_in_macs() -> None:
    shared = C(3, 3, 3, padding=1, bias=False)
    found = analyzed(nn.Sequential(shared, shared), (3, 8, 8))
    assert (found.parameters, found.macs) == (81, 2 * 81 * 64)
    assert [row.parameters for row in found.layers] == [81, 0]
    assert found.receptive_field == (5, 5)


@pytest.mark.parametrize("vector", [torch.mv, lambda a, b: torch.addmv(b.new_ones(64), a, b)])
def test_products_with_a_vector_count(vector: Callable[[Tensor, Tensor], Tensor]) -> None:
    """torch's own counter passes over them."""

    def run(net: Any, x: Tensor) -> Tensor:
        rows = net.first(x).permute(0, 2, 3, 1).reshape(64, 4)
        return vector(rows, net.weights.weight[0]).view(1, 1, 8, 8)

    found = analyzed(Net(run, first=C(3, 4, 1), weights=nn.Linear(4, 1, bias=False)), (3, 8, 8))
    assert found.macs == 64 * (12 + 4)


def test_a_layer_never_called_counts_in_parameters_only() -> None:
    module = Net(lambda net, x: net.used(x), used=C(3, 4, 1), unused=C(3, 4, 5))
    found = analyzed(module, (3, 8, 8))
    assert found.parameters == 16 + 304
    assert [row.name for row in found.layers] == ["used"]


def test_tied_and_frozen_parameters() -> None:
    module = nn.Sequential(C(3, 3, 1, bias=False), C(3, 3, 1, bias=False), C(3, 3, 1))
    module[1].weight = module[0].weight
    module[2].requires_grad_(False)
    assert analyzed(module, (3, 8, 8)).parameters == 9


def test_functional_layers_with_bare_parameters() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 3, 3, 3))
            self.gain = nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu_(F.conv2d(x, self.weight * 2, stride=2)) * self.gain

    found = analyzed(Bare(), (3, 9, 9))
    assert (found.parameters, found.macs, found.receptive_field) == (112, 108 * 16, (3, 3))
    assert [row.parameters for row in found.layers] == [112]


def test_norms_belong_to_the_layer_before() -> None:
    found = analyzed(nn.Sequential(C(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU()), (3, 8, 8))
    assert [row.parameters for row in found.layers] == [112 + 8 + 1]


# -------------------------------------------------------------------------- whole image


def gated(net: Any, x: Tensor) -> Tensor:
    y = net.first(x)
    gate = torch.sigmoid(net.gate(y.mean((2, 3), keepdim=True)))
    result: Tensor = net.last(y * gate)
    return result


def test_global_pooling_and_gates_do_not_count() -> None:
    body = Net(gated, first=C(3, 4, 3), gate=C(4, 4, 1), last=C(4, 4, 3))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)]
    found = analyzed(nn.Sequential(body, *head), (3, 16, 16))
    assert found.receptive_field == (5, 5)
    assert found.feature_map == (12, 12)
    assert found.notes == ()
    assert found.layers[-1].r_out == (None, None)


def test_pooling_that_leaves_more_than_a_cell_counts_as_the_local_operation_it_is() -> None:
    module = nn.Sequential(C(3, 4, 3, 2), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(16, 10))
    assert analyzed(module, (3, 14, 14)).layers[1].r_out == (7, 7)
    assert analyzed(module[:2], (3, 14, 14)).receptive_field == (7, 7)


@pytest.mark.parametrize(
    ("pool", "counted"),
    [
        (nn.AvgPool2d(8), 59),  # 31 + 7 * 4
        (nn.MaxPool2d(8), 59),
        (nn.MaxPool2d(5, 4), 47),
        (nn.LPPool2d(2, 8), 59),
        (Net(lambda n, x: F.max_pool2d(x, x.shape[-1], return_indices=True)[0]), 59),
    ],
)
def test_pooling_that_leaves_one_cell_is_global_and_says_what_else(
    pool: nn.Module, counted: int
) -> None:
    body = [C(3, 8, 3, 2, 1), C(8, 8, 3, 2, 1), *(C(8, 8, 3, padding=1) for _ in range(3))]
    found = analyzed(nn.Sequential(*body, pool, nn.Flatten(), nn.Linear(8, 10)), (3, 32, 32))
    assert (found.receptive_field, found.jump, found.feature_map) == ((31, 31), (4, 4), (8, 8))
    assert f"would be {counted}" in " ".join(found.notes)
    assert found.structure.strays == ()


@pytest.mark.parametrize(
    ("pool", "field"),
    [
        (nn.MaxPool2d((8, 1)), (31 + 28, 31)),  # of one axis
        (nn.MaxPool2d(1, 64), (31, 31)),  # takes a corner
        (nn.AvgPool2d(3, 6), (31 + 8, 31 + 8)),
    ],
)
def test_pooling_that_leaves_more_or_passes_over_cells_is_local(
    pool: nn.Module, field: tuple[int, int]
) -> None:
    body = [C(3, 8, 3, 2, 1), C(8, 8, 3, 2, 1), *(C(8, 8, 3, padding=1) for _ in range(3))]
    found = analyzed(nn.Sequential(*body, pool, C(8, 8, 1), nn.Flatten()), (3, 32, 32))
    assert found.receptive_field == field
    assert found.structure.strays == (f"{type(pool).__name__[:3].lower()}pool 5",)
    assert not [note for note in found.notes if "is global" in note]


def test_parameters_that_are_made_while_it_runs_are_refused() -> None:
    def made(net: Any, x: Tensor) -> Tensor:
        if not hasattr(net, "late"):
            net.late = C(4, 400, 3)
        result: Tensor = net.late(net.first(x))
        return result

    module = Net(made, first=C(3, 4, 3))
    with pytest.raises(TraceError, match=r"makes parameters while it runs \(late\.weight\)"):
        analyzed(module)
    assert analyzed(module).parameters == sum(p.numel() for p in module.parameters())


def test_a_module_without_operations_has_a_memory() -> None:
    found = analyzed(nn.BatchNorm2d(3, track_running_stats=False), (3, 8, 8))
    assert found.parameters == 6
    assert found.memory is not None


def test_pooling_as_large_as_the_map_is_local_where_padding_keeps_the_map() -> None:
    def pooled(net: Any, x: Tensor) -> Tensor:
        y = net.first(x)
        side = y.shape[-1]
        result: Tensor = net.last(F.avg_pool2d(y, side, stride=1, padding=side // 2))
        return result

    module = Net(pooled, first=C(3, 4, 3, padding=1), last=C(4, 4, 3, padding=1))
    found = analyzed(module, (3, 31, 31))
    assert found.receptive_field == (3 + 30 + 2,) * 2
    assert found.macs == oracle.macs(module, (3, 31, 31))


def test_a_size_is_a_plain_int() -> None:
    def pooled(net: Any, x: Tensor) -> Tensor:
        return F.avg_pool2d(net.first(x), x.shape[2] // 16 if type(x.shape[2]) is int else 1)

    found = analyzed(Net(pooled, first=C(3, 4, 3, 2, 1)), (3, 64, 64))
    assert found.receptive_field == (3 + 3 * 2,) * 2


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.avg_pool2d(x, x.size()[2:]),
        lambda x: F.avg_pool2d(x, kernel_size=x.shape[-1]),
        lambda x: nn.MaxPool2d((x.size(2), x.size(3)))(x),
        lambda x: x.amax((2, 3)),
        lambda x: x.flatten(2).mean(2),
        lambda x: F.adaptive_max_pool2d(x, 1),
    ],
)
def test_pooling_over_whatever_size_there_is_is_global(pool: Callable[[Tensor], Tensor]) -> None:
    module = Net(
        lambda n, x: n.last(pool(n.first(x)).flatten(1)), first=C(3, 4, 3, 2), last=nn.Linear(4, 2)
    )
    found = analyzed(module, (3, 9, 9))
    assert (found.receptive_field, found.feature_map) == ((3, 3), (4, 4))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(C(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10)), "linear layer over"),
        (
            Net(
                lambda n, x: n.mix(n.first(x).flatten(2)).unflatten(2, (6, 6)),
                first=C(3, 4, 3),
                mix=nn.Linear(36, 36),
            ),
            "linear layer over",
        ),
        (Net(lambda n, x: x.flatten(2).softmax(2).unflatten(2, (8, 8))), "softmax over"),
        (
            Net(
                lambda n, x: n.attend(*[x.flatten(2).mT] * 3)[0].mT.unflatten(2, (8, 8)),
                attend=nn.MultiheadAttention(3, 1, batch_first=True),
            ),
            "attention",
        ),
    ],
)
def test_other_ways_to_the_whole_image_have_no_field(module: nn.Module, words: str) -> None:
    found = analyzed(module, (3, 8, 8))
    assert found.receptive_field == (None, None)
    assert words in " ".join(found.notes)


def test_a_linear_layer_along_one_axis_leaves_the_other() -> None:
    module = Net(lambda n, x: n.mix(n.first(x)), first=C(3, 4, 3), mix=nn.Linear(6, 6))
    found = analyzed(module, (3, 8, 8))
    assert found.receptive_field == (3, None)


IN_PLACE: list[tuple[Callable[[Any, Tensor], Tensor], nn.Module, int]] = [
    (lambda n, x: n.mix(n.first(x).flatten(2)), nn.Conv1d(4, 5, 1), 3),
    (lambda n, x: n.mix(n.first(x).flatten(2)).unflatten(2, (6, 6)), nn.Conv1d(4, 5, 1), 3),
    (lambda n, x: n.last(n.mix(n.first(x).flatten(2)).unflatten(2, (6, 6))), nn.Conv1d(4, 4, 1), 5),
    (lambda n, x: n.mix(n.first(x).flatten(2)), nn.ConvTranspose1d(4, 5, 1), 3),
    (lambda n, x: n.mix(n.first(x).flatten(2)), nn.Conv1d(4, 4, 1, groups=2), 3),
    (lambda n, x: n.mix(n.first(x).flatten(2)), nn.MaxPool1d(1), 3),
    (
        lambda n, x: n.mix(n.first(x).unflatten(2, (2, 3)).permute(2, 0, 1, 3, 4).flatten(0, 1)),
        nn.Conv2d(4, 5, 1),
        3,
    ),
]


@pytest.mark.parametrize(("run", "mix", "field"), IN_PLACE)
def test_a_window_of_one_cell_reads_its_place_wherever_positions_stand(
    run: Callable[[Any, Tensor], Tensor], mix: nn.Module, field: int
) -> None:
    module = Net(run, first=C(3, 4, 3), mix=mix, last=C(4, 4, 3))
    assert analyzed(module, (3, 8, 8)).receptive_field == (field, field)
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    output = module(image)
    output[(0, 0, *(n // 2 for n in output.shape[2:]))].backward()
    assert image.grad is not None
    seen = image.grad.abs().sum((0, 1))
    assert [int(seen.sum(axis).count_nonzero()) for axis in (1, 0)] == [field, field]


def test_windows_over_rows_in_a_line_see_parts_of_rows_or_reach_into_the_next() -> None:
    """Of rows of 24, four pixels lie within one; 16 lie in one or in two, and then read columns
    from the last to the first: all of them, however long the rows are."""
    for kernel, field in ((4, (3, 6)), (16, (4, None))):
        module = Net(lambda n, x: n.pool(n.first(x).flatten(2)), first=C(3, 4, 3, padding=1))
        module.pool = nn.AvgPool1d(kernel)
        found = analyzed(module, (3, 24, 24))
        measured = oracle.support(oracle.linearize(module), (3, 24, 24))[0]
        assert found.receptive_field == field
        assert measured == (field[0], field[1] or 24)


class Tokens(nn.Module):
    """Two maps of 8 x 8, the second of a wider field, as tokens with a class token before them;
    `run` gives tokens of a map again."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run
        self.name = nn.Parameter(torch.ones(1, 1, 4))
        self.first, self.wide, self.last = (C(c, 4, 3, padding=1) for c in (3, 4, 4))
        self.mix = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        one = self.first(x)
        maps = [y.flatten(2).mT for y in (one, self.wide(one))]
        tokens = self.mix(torch.cat([self.name, *maps], 1))
        result: Tensor = self.last(self.run(self, tokens).mT.unflatten(2, (8, 8)))
        return result


@pytest.mark.parametrize(
    "run",
    [
        lambda n, x: x[:, 65:],
        lambda n, x: x.split([1, 64, 64], 1)[2],
        lambda n, x: n.mix(torch.cat([x[:, 65:], n.name], 1))[:, :64],
    ],
)
def test_tokens_of_a_map_are_one_again_without_the_class_token(
    run: Callable[[Any, Tensor], Tensor],
) -> None:
    module = Tokens(run)
    found = analyzed(module, (3, 8, 8))
    assert found.receptive_field == (7, 7) == oracle.support(oracle.linearize(module), (3, 8, 8))[0]


@pytest.mark.parametrize(
    "run",
    [
        lambda n, x: x[:, 1:65],  # the narrower map: together they see more
        lambda n, x: x[:, 1:].flip(1)[:, :64],
        lambda n, x: x[:, 64:-1],
        lambda n, x: x[:, 1:][:, ::2],
        lambda n, x: x.flip(1)[:, 65:],
    ],
)
def test_tokens_that_are_no_map_again_are_refused(run: Callable[[Any, Tensor], Tensor]) -> None:
    with pytest.raises(UnknownOperationError, match="64 positions or channels is cut at 8"):
        trace(Tokens(run), (3, 8, 8))


def _made_from(summary: Callable[[Tensor], Tensor]) -> nn.Module:
    """A convolution by a mixture of four filters, as `summary` of the map says."""

    def run(net: Any, x: Tensor) -> Tensor:
        mixture = net.route(summary(net.first(x)))
        return F.conv2d(net.first(x), net.experts(mixture).unflatten(1, (4, 4, 3, 3))[0])

    return Net(run, first=C(3, 4, 3), route=nn.Linear(4, 4), experts=nn.Linear(4, 144, bias=False))


def test_weights_made_from_the_image_are_a_gate() -> None:
    """Conditional convolutions (Yang et al., arXiv:1904.04971)."""
    found = analyzed(_made_from(lambda x: x.mean((2, 3))), (3, 16, 16))
    assert found.receptive_field == (5, 5)
    assert found.parameters == 112 + 20 + 576
    assert found.macs == 14 * 14 * 108 * 2 + 12 * 12 * 144 + 16 + 576
    whole = analyzed(_made_from(lambda x: (x.flatten(2) @ torch.ones(196, 1))[..., 0]), (3, 16, 16))
    assert whole.receptive_field == (None, None)


# ----------------------------------------------------------------------------- refusals


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        grid = torch.zeros(1, 4, 4, 2, device=x.device)
        return F.grid_sample(x, grid, align_corners=False)


@pytest.mark.parametrize(
    ("module", "operation"),
    [
        (Unknown(), "grid_sampler_2d"),
        (Net(lambda n, x: x.cumsum(2)), "cumsum"),
        (Net(lambda n, x: x.sort(3).values), "sort"),
        (Net(lambda n, x: x[:, :, 8:]), "slice"),
        (Net(lambda n, x: x.as_strided(x.shape, (192, 64, 1, 8))), "as_strided"),
        (Net(lambda n, x: F.conv2d(x, x[:, :, :3, :3])), "convolution"),
        (Net(lambda n, x: x.flatten(2)[:, :, torch.arange(5)]), "index"),
    ],
)
def test_unknown_operations_are_refused_by_name(module: nn.Module, operation: str) -> None:
    module = nn.Sequential(C(3, 3, 1), nn.Sequential(module), C(3, 3, 1))
    with pytest.raises(UnknownOperationError, match="cannot be analyzed") as caught:
        trace(module, (3, 8, 8))
    assert f"module '1.0': operation '{operation}'" in str(caught.value)


@pytest.mark.parametrize(
    "part",
    [
        lambda n, x: n.first(x.unflatten(2, (4, 2)).permute(0, 3, 1, 2, 4)[0]),  # by turns
        lambda n, x: F.adaptive_avg_pool2d(x.unflatten(2, (2, 4)).transpose(1, 2)[0], 2),
        lambda n, x: F.interpolate(x.unflatten(2, (2, 4)).transpose(1, 2)[0], scale_factor=2),
    ],
)
def test_parts_in_the_batch_are_refused(part: Callable[[Any, Tensor], Tensor]) -> None:
    with pytest.raises(UnknownOperationError, match="batch dimension, in parts"):
        trace(Net(part, first=C(3, 3, 3, padding=1)), (3, 8, 8))


def test_what_depends_on_data_is_refused_in_one_line() -> None:
    module = Net(lambda n, x: x if x.sum() > 0 else -x)
    with pytest.raises(TraceError, match="without data") as caught:
        trace(module, (3, 8, 8))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda n, x: n.gone(x), "no attribute 'gone'.*mend its code, or --input"),
        (lambda n, x: n.first(x, 3), "TypeError.*mend its code, or --input"),
        (lambda n, x: n.empty(x), "'empty' fails.*write one as a method"),
        (lambda n, x: None, "its forward must return one"),
        (lambda n, x: n.first(x[:, :2]), "--input gives another shape"),
    ],
)
def test_what_fails_by_itself_is_not_laid_on_missing_data(
    run: Callable[[Any, Tensor], Tensor], words: str
) -> None:
    module = Net(run, first=C(3, 3, 3), empty=nn.Module())
    with pytest.raises(TraceError, match=words) as caught:
        trace(module, (3, 8, 8))
    assert "which the checker has none of" not in str(caught.value)


def test_a_file_named_meta_does_not_stand_for_missing_data(tmp_path: Path) -> None:
    file = tmp_path / "meta.py"
    file.write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x[:, :2])\n"
        "def net():\n    return Net(nn.Conv2d(3, 4, 3))\n"
    )
    with pytest.raises(TraceError, match="--input gives another shape"):
        trace(make(load_factory(f"{file}:net")), (3, 8, 8))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise AssertionError("there is no backward to prepare")


def test_custom_functions_run_beside_writes_through_views() -> None:
    plain = Net(lambda n, x: n.b(Double.apply(n.a(x).relu_())), a=C(3, 4, 3), b=C(4, 4, 3))
    assert analyzed(plain, (3, 8, 8)).receptive_field == (5, 5)

    def writing(net: Any, x: Tensor) -> Tensor:
        y = Sign.apply(Double.apply(net.first(x)))
        left, right = y.chunk(2, 1)
        right.relu_()
        y[:, :, 1:] += 1
        result: Tensor = net.last(torch.cat([left, right], 1))
        return result

    module = Net(writing, first=C(3, 4, 3), last=C(4, 4, 3))
    assert analyzed(module, (3, 8, 8)).receptive_field == (5, 5)
    y = torch.ones(1, requires_grad=True)
    Double.apply(y).backward()  # as ever, afterwards
    assert y.grad == 2


def test_lazy_parameters_are_refused() -> None:
    with pytest.raises(TraceError, match="lazy"):
        trace(nn.LazyConv2d(4, 3), (3, 8, 8))


def test_a_roll_is_a_shift_whose_far_end_is_a_border() -> None:
    module = Net(lambda n, x: n.first(x) + n.first(x).roll(3, 2), first=C(3, 4, 3, padding=1))
    assert analyzed(module, (3, 16, 16)).receptive_field == (6, 3)


def test_an_output_without_the_image_is_refused() -> None:
    with pytest.raises(TraceError, match="does not depend"):
        trace(Net(lambda n, x: torch.ones(3)), (3, 8, 8))


def test_a_module_is_left_as_it_was() -> None:
    module = nn.Sequential(C(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trace(module, (3, 8, 8))
    assert [part.training for part in module.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module[0].weight.device.type == "cpu"


def test_of_several_outputs_the_deepest_is_analyzed() -> None:
    module = Net(
        lambda n, x: {"aux": n.a(x), "out": n.c(n.b(n.a(x)))},
        a=C(3, 3, 3),
        b=C(3, 3, 3),
        c=C(3, 3, 3),
    )
    assert analyzed(module, (3, 16, 16)).receptive_field == (7, 7)


def test_rows_of_a_module_hold_a_pair_per_spatial_value() -> None:
    verdict = check(trace(C(3, 4, (3, 5)), (3, 8, 9)), Limits.from_mapping({}))
    (row,) = verdict.to_json()["layers"]
    assert (row["kernel"], row["n_in"], row["n_out"]) == ([3, 5], [8, 9], [6, 5])
    assert math.prod(row["n_out"]) * 3 * 15 * 4 == row["macs"]
