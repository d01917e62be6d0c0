from __future__ import annotations

import pytest
import torch

from search.config import ConfigError, MachineError
from search.devices import choose_device, describe_device, use_bfloat16

CPU = torch.device("cpu")


def test_a_device_that_is_not_there_is_named() -> None:
    assert choose_device("cpu") == CPU
    with pytest.raises(MachineError, match="--device cuda:99"):
        choose_device("cuda:99")
    with pytest.raises(ConfigError, match="--device abacus: must be auto"):
        choose_device("abacus")


def test_a_device_says_what_it_computes_with() -> None:
    assert f"{torch.get_num_threads()} threads" in describe_device(CPU)


def test_precision_is_as_told() -> None:
    assert use_bfloat16(CPU, "bfloat16")
    assert not use_bfloat16(CPU, "float32")
