"""What modules do besides computing: devices, types, modes; and what is said about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.analysis.table import Analysis, analyze
from search.analysis.tracing.calls import HANDLERS
from search.analysis.tracing.errors import TraceError, UnknownOperationError
from search.analysis.tracing.trace import trace


class Net(nn.Module):
    """A forward function between two 3x3 layers: 5, unless it reads more."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.run(self, self.first(x)))
        return result


def analyzed(module: nn.Module, shape: tuple[int, ...] = (3, 32, 32)) -> Analysis:
    return analyze(trace(module, shape))


def one_channel(net: Any, x: Tensor) -> Tensor:
    x = x.clone()
    for channel in range(x.shape[1]):
        x[:, channel] = (x[:, channel] - 0.5) / 0.25
    x[:, 0] = 1
    return x


@torch.inference_mode()
def inferred(net: Any, x: Tensor) -> Tensor:
    return F.relu(F.conv2d(x, net.last.weight[:, :, 1:2, 1:2]).reshape(x.shape))


def local_attention(net: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    patches = F.unfold(x, 7, padding=3).view(n, c, 49, h, w)
    weights = torch.einsum("bchw,bckhw->bkhw", x, patches).softmax(1)
    return torch.einsum("bkhw,bckhw->bchw", weights, patches)


@pytest.mark.parametrize(
    ("run", "field"),
    [
        (lambda n, x: x.to(torch.device("cpu")), 5),
        (lambda n, x: x.to("cuda"), 5),
        (lambda n, x: x.cuda(), 5),
        (lambda n, x: x.to(n.first.weight.device, torch.float32, non_blocking=True), 5),
        (lambda n, x: x + torch.ones(4, 1, 1, device=x.device), 5),
        (lambda n, x: x.float().type_as(x), 5),
        (inferred, 5),
        (one_channel, 5),
        (lambda n, x: nn.ChannelShuffle(2)(x), 5),
        (local_attention, 11),
    ],
)
def test_a_forward_that_does_this_is_followed(
    run: Callable[[Any, Tensor], Tensor], field: int
) -> None:
    assert analyzed(Net(run)).receptive_field == (field, field)


@pytest.mark.parametrize("type", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_of_the_weights_changes_no_count(type: torch.dtype) -> None:
    module = Net(lambda n, x: x.relu())
    before = analyzed(module)
    assert analyzed(module.to(type)) == before


def test_an_exported_program_is_a_module_like_any() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    program = torch.export.export(module, (torch.zeros(1, 3, 32, 32),)).module()
    assert analyzed(program).receptive_field == (5, 5)


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_layers_have_no_field_and_say_so(layer: Callable[..., nn.Module]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.steps = nn.Conv2d(1, 8, (20, 5), (8, 2)), layer(24, 16)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.steps(self.first(x).permute(3, 0, 1, 2).flatten(2))[0][-1]
            return result

    found = analyzed(Recurrent(), (1, 40, 20))
    assert found.receptive_field == (None, None)
    assert "recurrent" in found.notes[0]


def test_a_map_behind_attention_keeps_its_size() -> None:
    def attention(net: Any, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return (flat @ (flat.mT @ flat).softmax(-1).mT).view_as(x)

    found = analyzed(Net(attention))
    assert (found.receptive_field, found.feature_map) == ((None, None), (28, 28))
    assert found.layers[-1].n_in == (30, 30)


def test_a_pyramid_of_pooled_grids_is_global() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4 * (1 + 4 + 16), 10)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            grids = [F.adaptive_max_pool2d(y, side).flatten(1) for side in (1, 2, 4)]
            result: Tensor = self.last(torch.cat(grids, 1))
            return result

    assert analyzed(Pyramid()).receptive_field == (3, 3)


# -------------------------------------------------------------------------------- structure


@pytest.mark.parametrize("first", ["map", "gate"])
def test_a_gate_hides_no_separable_convolution(first: str) -> None:
    def gated(net: Any, x: Tensor) -> Tensor:
        y = net.deep(x)
        gate = net.gate(F.adaptive_avg_pool2d(y, 1)).sigmoid()
        result: Tensor = net.point(y * gate if first == "map" else gate * y)
        return result

    deep, gate, point = nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    found = analyzed(Net(gated, deep=deep, gate=gate, point=point))
    assert found.structure.separable == 1


@pytest.mark.parametrize(
    "layer", [nn.LocalResponseNorm(5), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)]
)
def test_what_keeps_the_stride_does_not_downsample(layer: nn.Module) -> None:
    found = analyzed(Net(lambda n, x: n.layer(x), layer=layer))
    assert found.structure.strays == ()


def test_a_constant_filter_is_no_convolution_of_the_network() -> None:
    def blurred(net: Any, x: Tensor) -> Tensor:
        return F.conv2d(x, torch.ones(4, 1, 3, 3) / 9, stride=2, padding=1, groups=4)

    found = analyzed(Net(blurred))
    assert (found.structure.transitions, len(found.structure.strays)) == (0, 1)
    assert "36 weights of this filter are no parameters" in found.notes[0]


# ------------------------------------------------------------------------------------ notes


def test_frozen_weights_are_said_with_both_numbers() -> None:
    module = Net(lambda n, x: x)
    module.first.requires_grad_(False)
    found = analyzed(module)
    assert found.parameters == 148
    (note,) = found.notes
    assert note.startswith("112 weights are frozen")
    assert note.endswith("260 parameters")


def test_weights_that_no_module_registers_are_said() -> None:
    hidden = [nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)]
    found = analyzed(Net(lambda n, x: hidden[1](hidden[0](hidden[0](x)))))
    (note,) = found.notes
    assert note.startswith("168 weights run that the module does not register")
    assert f"{260 + 168} parameters" in note


def test_layers_that_do_not_run_are_named() -> None:
    found = analyzed(Net(lambda n, x: x, spare=nn.Conv2d(4, 4, 1)))
    (note,) = found.notes
    assert "20 of the parameters counted" in note
    assert note.endswith("spare")


# --------------------------------------------------------------------------------- messages


def test_an_exception_of_the_module_is_told_whole_and_with_its_place() -> None:
    def failing(net: Any, x: Tensor) -> Tensor:
        raise ValueError("the map must have\n  64 units,\n  but has 30")

    line = failing.__code__.co_firstlineno + 1
    words = rf"ValueError: the map must have 64 units, but has 30 \(test_running.py, line {line}\)"
    with pytest.raises(TraceError, match=f"{words}; --input gives another shape$"):
        trace(Net(failing))


def test_asking_for_values_is_no_matter_of_the_shape() -> None:
    with pytest.raises(TraceError, match="asks for no values") as caught:
        trace(Net(lambda n, x: x * float(x.max())))
    assert "--input" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")  # deprecated, not gone
def test_a_recording_is_refused_in_a_line() -> None:
    recorded = torch.jit.trace(nn.Sequential(nn.Conv2d(3, 8, 3)), torch.zeros(1, 3, 8, 8))
    with pytest.raises(TraceError, match=r"is a recording by torch\.jit") as caught:
        trace(recorded)
    assert "Traceback" not in str(caught.value)


def test_a_fault_of_the_checker_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HANDLERS, "relu", lambda call: 1 // 0)
    with pytest.raises(UnknownOperationError, match="the checker itself failed") as caught:
        trace(Net(lambda n, x: x.relu()))
    assert "operation 'relu' on [1, 4, 30, 30]" in str(caught.value)


def test_functional_layers_bear_the_names_that_users_write() -> None:
    def functional(net: Any, x: Tensor) -> Tensor:
        x = F.conv2d(F.max_pool2d(x, 3, 2), net.last.weight)
        return F.interpolate(x, scale_factor=2.0)

    names = [row.name for row in analyzed(Net(functional)).layers]
    assert names == ["first", "max_pool2d", "conv", "interpolate", "last"]


def test_a_jump_that_is_no_whole_number_is_rounded() -> None:
    found = analyzed(Net(lambda n, x: n.up(x), up=nn.Upsample(scale_factor=1.7)))
    assert found.jump == (0.5882, 0.5882)
