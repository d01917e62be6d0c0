"""Where trials train: the device by name, in words, and whether it has bfloat16."""

from __future__ import annotations

import ctypes
import re
from functools import cache

import torch

from search.errors import ConfigError, MachineError

# Of glibc's mallopt(3), by their numbers in malloc.h: from which size on a block is mapped by
# itself, and how much that is free stays with the process.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = (-3, 2**30), (-1, 2**31 - 1)


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` is CUDA, else MPS, else the CPU.

    From now on this process keeps the memory that it frees.

    Raises:
        ConfigError: for a name that no device has.
        MachineError: where this machine has no such device.
    """
    _keep_memory()
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"--device {name}: must be auto, cpu, cuda, cuda:N or mps")
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise MachineError(f"--device {name}: this machine has none; try --device auto") from None
    return device


@cache
def _keep_memory() -> None:
    """Or the pages of each batch are faulted in anew: a tenth of a CPU's training time."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc's alone
        for parameter, value in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            library.mallopt(parameter, value)


def describe_device(device: torch.device) -> str:
    """The device in words, for people and for results."""
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    return str(device)


def use_bfloat16(device: torch.device, precision: str) -> bool:
    """Whether to compute in bfloat16: as told, or where the device has it in hardware."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
