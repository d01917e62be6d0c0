"""What a trial keeps in files: checkpoints and artifacts."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.trial import FrozenTrial, Trial

from search.config.private import make_private, private
from search.errors import MachineError
from search.storage.trials import Attributes


class CheckpointError(ValueError):
    """A checkpoint is not what was saved."""


# --- checkpoints -----------------------------------------------------------------------

_CHECKPOINT_MAGIC = b"C1C4-CHECKPOINT\n"


def checkpoint_path(runs: Path, trial: Trial | FrozenTrial) -> Path:
    """Where the trial's present worker saves its checkpoint.

    Each claim has a file of its own: a worker that lost its trial, and does not know it yet,
    writes over nothing of the one that took it over, and a study finds nothing that one of the
    same name has left in the directory.
    """
    return runs / _file(trial, _claims(trial)[0])


def latest_checkpoint(runs: Path, trial: Trial | FrozenTrial) -> Path:
    """The one to go on from: of the present claim, else of the last one before that saved any."""
    paths = [runs / _file(trial, claim) for claim in _claims(trial)]
    return next((path for path in paths if path.exists()), paths[0])


def discard_checkpoints(runs: Path, trial: Trial | FrozenTrial, *, but: Path | None = None) -> None:
    """Removes all checkpoints of a trial, `but` one."""
    for path in checkpoints(runs, trial):
        if path != but:
            path.unlink(missing_ok=True)


def checkpoints(runs: Path, trial: Trial | FrozenTrial) -> Iterator[Path]:
    """All that any worker of the trial may have saved."""
    for claim in _claims(trial):
        for halved in (False, True):
            yield runs / _named(trial, claim, halved)


def _claims(trial: Trial | FrozenTrial) -> list[str]:
    """The trial's claims, the last first; an empty one is of a version that had none."""
    worker = Attributes.of(trial).worker or {}
    return [worker.get("claim", ""), *reversed(worker.get("earlier", []))]


def _file(trial: Trial | FrozenTrial, claim: str) -> str:
    # Half a batch takes other steps: that training cannot go on from the whole one's.
    return _named(trial, claim, bool(Attributes.of(trial).batch_divisor))


def _named(trial: Trial | FrozenTrial, claim: str, halved: bool) -> str:
    parts = (f"trial-{trial.number:06d}", "half" if halved else "", claim)
    return f"{'-'.join(filter(None, parts))}.checkpoint"


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


# --- artifacts -------------------------------------------------------------------------


class _PrivateStore(FileSystemArtifactStore):
    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._place = place

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        make_private(self._place)
        with open(self._place / artifact_id, "wb", opener=private) as file:
            shutil.copyfileobj(content_body, file)


def artifact_store(runs: Path) -> FileSystemArtifactStore:
    """The files that the dashboard shows beside trials."""
    return _PrivateStore(runs / "artifacts")


def attach(
    target: Trial | FrozenTrial | optuna.Study, path: Path, store: FileSystemArtifactStore
) -> str:
    """Attaches the file at `path` to a trial or study; answers with the artifact's id."""
    return upload_artifact(study_or_trial=target, file_path=str(path), artifact_store=store)
