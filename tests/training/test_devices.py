from __future__ import annotations

import platform
import resource

import pytest
import torch

from search.errors import ConfigError, MachineError
from search.training.devices import choose_device, choose_dtype, describe_device, keep_memory

CPU = torch.device("cpu")


def test_a_device_that_is_not_there_is_named() -> None:
    assert choose_device("cpu") == CPU
    with pytest.raises(MachineError, match="--device cuda:99"):
        choose_device("cuda:99")
    with pytest.raises(ConfigError, match="--device abacus: must be auto"):
        choose_device("abacus")


@pytest.mark.parametrize(("number", "words"), [(1, "1 thread,"), (2, "2 threads,")])
def test_a_device_says_what_it_computes_with(
    number: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: number)
    assert words in describe_device(CPU)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no mallopt")
def test_freed_memory_stays_with_the_process() -> None:
    keep_memory()
    pages, times = 1_000, 20
    for _ in range(times):  # the process grows to what it needs
        torch.ones(pages * resource.getpagesize(), dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(pages * resource.getpagesize(), dtype=torch.uint8)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < times * pages / 4


def test_precision_is_as_told() -> None:
    assert choose_dtype(CPU, "bfloat16") is torch.bfloat16
    assert choose_dtype(CPU, "float32") is torch.float32
    with pytest.raises(ConfigError, match="float16: is for CUDA alone"):
        choose_dtype(CPU, "float16")


@pytest.mark.parametrize(
    ("bfloat16", "capability", "dtype"),
    [
        (True, (9, 0), torch.bfloat16),
        (False, (7, 5), torch.float16),
        (False, (6, 1), torch.float32),
    ],
)
def test_a_gpu_computes_in_what_its_hardware_has(
    monkeypatch: pytest.MonkeyPatch,
    bfloat16: bool,
    capability: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_dtype(torch.device("cuda"), "auto") is dtype
