from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.artifacts import get_all_artifact_meta

from search.storage.checkpoints import (
    CheckpointError,
    artifact_store,
    attach,
    load_checkpoint,
    save_checkpoint,
)
from tests.processes import created


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.checkpoint"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"weights": {"w": torch.arange(6.0).view(2, 3)}, "history": [{"a": 1}]})
    state = load_checkpoint(path)
    assert state is not None
    assert torch.equal(state["weights"]["w"], torch.arange(6.0).view(2, 3))
    assert state["history"] == [{"a": 1}]
    assert [entry.name for entry in path.parent.iterdir()] == ["a.checkpoint"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_or_missing_end_is_found(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.checkpoint"
    save_checkpoint(path, {"w": torch.ones(8)})
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.checkpoint: corrupt"):
        load_checkpoint(path)


def test_a_hostile_pickle_is_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "owned",)

    path = tmp_path / "a.checkpoint"
    payload = pickle.dumps(Hostile(), protocol=2)
    path.write_bytes(b"C1C4-CHECKPOINT\n" + hashlib.sha256(payload).digest() + payload)
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(path)
    assert not (tmp_path / "owned").exists()


def test_an_artifact_lies_beside_the_runs(tmp_path: Path, sqlite: str) -> None:
    study = created(sqlite)
    (tmp_path / "curve.txt").write_text("0.5")
    identifier = attach(study, tmp_path / "curve.txt", artifact_store(tmp_path / "runs"))
    assert (tmp_path / "runs" / "artifacts" / identifier).read_text() == "0.5"
    names = [artifact.filename for artifact in get_all_artifact_meta(study)]
    assert names == ["curve.txt"]
