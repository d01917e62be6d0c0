"""What a trial keeps in files: checkpoints and artifacts."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.trial import FrozenTrial, Trial

from search.config.private import make_private, private
from search.errors import MachineError
from search.storage.studies import _PrivateStore
from search.storage.trials import Attributes


class CheckpointError(ValueError):
    """A checkpoint is not what was saved."""


# --- checkpoints -----------------------------------------------------------------------

_CHECKPOINT_MAGIC = b"C1C4-CHECKPOINT\n"


def checkpoint_path(runs: Path, trial: Trial | FrozenTrial) -> Path:
    """Where the trial's present worker saves its checkpoint.

    Each claim has a file of its own: a worker that lost its trial, and does not know it yet,
    writes over nothing of the one that took it over.
    """
    claim = (Attributes.of(trial).worker or {}).get("claim")
    return runs / f"{_stem(trial)}{f'-{claim}' if claim else ''}.checkpoint"


def latest_checkpoint(runs: Path, trial: Trial | FrozenTrial) -> Path:
    """The one to go on from: of the present claim, else the newest of an earlier one."""
    own = checkpoint_path(runs, trial)
    if own.exists():
        return own
    earlier = [*runs.glob(f"{_stem(trial)}.checkpoint"), *runs.glob(f"{_stem(trial)}-{_CLAIM}")]
    return max(earlier, key=lambda path: path.stat().st_mtime, default=own)


def discard_checkpoints(runs: Path, trial: Trial | FrozenTrial, *, but: Path | None = None) -> None:
    """Removes all checkpoints of a trial, `but` one."""
    for path in runs.glob(f"{_number(trial)}*.checkpoint"):
        if path != but:
            path.unlink(missing_ok=True)


_CLAIM = "????????.checkpoint"


def _number(trial: Trial | FrozenTrial) -> str:
    return f"trial-{trial.number:06d}"


def _stem(trial: Trial | FrozenTrial) -> str:
    # Half a batch takes other steps: that training cannot go on from the whole one's.
    return _number(trial) + ("-half" if Attributes.of(trial).batch_divisor else "")


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Replaces the checkpoint at `path` at once, or leaves the old one as it is.

    `state` holds tensors, numbers, strings and containers of them.

    Raises:
        MachineError: it could not be written; names the path.
    """
    import torch  # seconds, which a command that only reads a study need not wait for

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    payload = buffer.getbuffer()
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        make_private(path.parent)
        with open(temporary, "wb", opener=private) as file:
            file.write(_CHECKPOINT_MAGIC + hashlib.sha256(payload).digest())
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MachineError(f"{path}: {error.strerror}; the trial is queued again") from error


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state that was saved at `path`, on the CPU; None when there is none.

    Raises:
        CheckpointError: it is not what was saved; names the path.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    start = len(_CHECKPOINT_MAGIC) + hashlib.sha256().digest_size
    digest, payload = content[len(_CHECKPOINT_MAGIC) : start], content[start:]
    if hashlib.sha256(payload).digest() != digest or not content.startswith(_CHECKPOINT_MAGIC):
        raise CheckpointError(f"{path}: corrupt checkpoint (SHA-256 differs)")
    import torch

    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state


def artifact_store(runs: Path) -> FileSystemArtifactStore:
    """The files that the dashboard shows beside trials."""
    return _PrivateStore(runs / "artifacts")


def attach(
    target: Trial | FrozenTrial | optuna.Study, path: Path, store: FileSystemArtifactStore
) -> str:
    """Attaches the file at `path` to a trial or study; answers with the artifact's id."""
    return upload_artifact(study_or_trial=target, file_path=str(path), artifact_store=store)
