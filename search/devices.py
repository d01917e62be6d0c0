"""Where trials train: the device by name, in words, and whether it has bfloat16."""

from __future__ import annotations

import re

import torch

from search.config import ConfigError, MachineError


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
