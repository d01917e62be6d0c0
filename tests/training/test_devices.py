from __future__ import annotations

import platform
import resource

import pytest
import torch

from search.errors import ConfigError, MachineError
from search.training.devices import choose_device, describe_device, use_bfloat16

CPU = torch.device("cpu")


def test_a_device_that_is_not_there_is_named() -> None:
    assert choose_device("cpu") == CPU
    with pytest.raises(MachineError, match="--device cuda:99"):
        choose_device("cuda:99")
    with pytest.raises(ConfigError, match="--device abacus: must be auto"):
        choose_device("abacus")


def test_a_device_says_what_it_computes_with() -> None:
    assert f"{torch.get_num_threads()} threads" in describe_device(CPU)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no mallopt")
def test_freed_memory_stays_with_the_process() -> None:
    choose_device("cpu")
    pages, times = 1_000, 20
    for _ in range(times):  # the process grows to what it needs
        torch.ones(pages * resource.getpagesize(), dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(pages * resource.getpagesize(), dtype=torch.uint8)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < times * pages / 4


def test_precision_is_as_told() -> None:
    assert use_bfloat16(CPU, "bfloat16")
    assert not use_bfloat16(CPU, "float32")
