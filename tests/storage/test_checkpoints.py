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
    checkpoint_path,
    discard_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from search.storage.studies import load_study, study_storage
from tests.processes import ask, created


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


def test_each_claim_has_a_checkpoint_of_its_own(tmp_path: Path, sqlite: str) -> None:
    study, other = created(sqlite), load_study("toy", sqlite)
    first = ask(study)
    assert latest_checkpoint(tmp_path, first) == checkpoint_path(tmp_path, first)
    save_checkpoint(checkpoint_path(tmp_path, first), {"by": "first"})
    study_storage(study).requeue(first._trial_id, first.user_attrs["worker"])
    second = ask(other)
    assert load_checkpoint(latest_checkpoint(tmp_path, second)) == {"by": "first"}
    save_checkpoint(checkpoint_path(tmp_path, second), {"by": "second"})
    save_checkpoint(checkpoint_path(tmp_path, first), {"by": "first, awake again"})
    for claimed in (second, study.trials[0]):
        assert load_checkpoint(latest_checkpoint(tmp_path, claimed)) == {"by": "second"}


def test_a_trial_goes_on_from_a_checkpoint_of_a_version_without_claims(
    tmp_path: Path, sqlite: str
) -> None:
    study = created(sqlite)
    first = ask(study)
    old = {name: first.user_attrs["worker"][name] for name in ("host", "pid", "pids")}
    first.set_user_attr("worker", old)
    save_checkpoint(tmp_path / "trial-000000.checkpoint", {"by": "an older version"})
    study_storage(study).requeue(first._trial_id, old)
    second = ask(load_study("toy", sqlite))
    assert load_checkpoint(latest_checkpoint(tmp_path, second)) == {"by": "an older version"}
    discard_checkpoints(tmp_path, second)
    assert list(tmp_path.glob("*.checkpoint")) == []


def test_studies_of_one_name_share_no_checkpoint(tmp_path: Path, sqlite: str) -> None:
    """In two databases of one directory, or in one that was deleted and made anew."""
    first, other = ask(created(sqlite)), ask(created(f"sqlite:///{tmp_path / 'other.db'}"))
    assert first.number == other.number
    save_checkpoint(own := checkpoint_path(tmp_path, first), {"by": "first"})
    assert load_checkpoint(latest_checkpoint(tmp_path, other)) is None
    discard_checkpoints(tmp_path, other)
    assert own.exists()


def test_half_a_batch_does_not_go_on_from_the_whole_one(tmp_path: Path, sqlite: str) -> None:
    study = created(sqlite, trials=12)
    trial, other = ask(study), ask(study)
    save_checkpoint(checkpoint_path(tmp_path, trial), {})
    save_checkpoint(kept := checkpoint_path(tmp_path, other), {})
    trial.set_user_attr("batch_divisor", 2)
    half = latest_checkpoint(tmp_path, trial)
    assert not half.exists()
    save_checkpoint(half, {})
    discard_checkpoints(tmp_path, trial, but=half)
    assert {*tmp_path.glob("*.checkpoint")} == {half, kept}
    discard_checkpoints(tmp_path, trial)
    assert {*tmp_path.glob("*.checkpoint")} == {kept}
