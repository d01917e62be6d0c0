"""Where trials train: the device by name, in words, and the arithmetic that suits it."""

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

    Raises:
        ConfigError: for a name that no device has.
        MachineError: where this machine has no such device.
    """
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
def keep_memory() -> None:
    """From now on this process keeps the memory that it frees.

    Or the pages of each batch are faulted in anew: a tenth of a CPU's training time.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc's alone
        for parameter, value in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            library.mallopt(parameter, value)


def describe_device(device: torch.device) -> str:
    """The device in words, for people and for results."""
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        plural = "" if threads == 1 else "s"
        return f"cpu: {threads} thread{plural}, {torch.backends.cpu.get_cpu_capability()}"
    return str(device)


def choose_dtype(device: torch.device, precision: str) -> torch.dtype:
    """The type to compute in: as told; `auto` is bfloat16 where the device has it in hardware,
    else float16 where a GPU has tensor cores for it (Volta, Turing), else float32.

    Raises:
        ConfigError: for float16 anywhere but on CUDA.
    """
    if precision == "float16" and device.type != "cuda":
        raise ConfigError("training.precision = float16: is for CUDA alone; try auto")
    if precision != "auto":
        dtype: torch.dtype = getattr(torch, precision)
        return dtype
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        tensor_cores = torch.cuda.get_device_capability(device) >= (7, 0)
        return torch.float16 if tensor_cores else torch.float32
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32
