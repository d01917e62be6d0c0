"""What the formats for microcontrollers need and not everybody installs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from search.errors import MachineError

PACKAGES = ("litert-torch", "ai-edge-quantizer", "ai-edge-litert", "tflite-micro")
INSTALL = "pip install 'c1c4-search[int8]'"


def missing() -> list[str]:
    """The packages of the extra `int8` that are not installed."""
    return [name for name in PACKAGES if _version(name) is None]


def require() -> None:
    """Accepts a machine with the extra.

    Raises:
        MachineError: it is not installed.
    """
    if missing():
        raise MachineError(f"--int8 needs {', '.join(missing())}: {INSTALL}")


def versions() -> dict[str, str | None]:
    """The installed versions."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
