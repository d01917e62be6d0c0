"""Workers on a real Ray cluster, which is this machine alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from run_study import run
from search.errors import ConfigError, MachineError
from search.storage.studies import load_study
from search.workers import cluster
from search.workers.supervisor import Ending, Workers
from tests.conftest import own
from tests.processes import ROOT, wait_until


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, Path]]:
    """Address and directory of a cluster with two cores, which asks for a token of its own."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2}
    settings |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start = "start --head --block --num-cpus=2 --include-dashboard=false --disable-usage-stats"
    with pytest.MonkeyPatch.context() as patch:
        for key, value in settings.items():
            patch.setenv(key, value)
        # Not below pytest's directory: sockets need short paths.
        with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as place:
            command = [sys.executable, "-m", "ray.scripts.scripts", *start.split()]
            command += [f"--port={port}", f"--temp-dir={place}", "--object-store-memory=80000000"]
            said = Path(place) / "said"
            with said.open("w") as file:
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            try:
                # Its port is open long before it takes anybody in.
                wait_until(lambda: "Ray runtime started" in said.read_text(), 120)
                yield f"127.0.0.1:{port}", Path(place)
            finally:
                _end(process)


def _end(head: subprocess.Popen[bytes]) -> None:
    family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
    head.terminate()
    for process in psutil.wait_procs(family, timeout=5)[1]:
        process.kill()
    head.wait()


@pytest.fixture(scope="module")
def ray(head: tuple[str, Path]) -> Iterator[str]:
    """The address of a cluster that this process is part of."""
    address, _ = head
    with cluster.joined(address, shared=False):
        yield address


def script(text: str) -> list[str]:
    return [sys.executable, "-c", f"import os, signal, sys, time\n{text}"]


def test_ray_starts_a_killed_worker_again_and_its_trial_goes_on(
    ray: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url, killed = f"sqlite:///{tmp_path}/study.db", list[Row]()
    monkeypatch.setenv("STUDY_STORAGE", url)

    def kill_one() -> None:
        wait_until(lambda: killed or killed.extend(_reported(tmp_path / "study.db")), 300)
        os.kill(json.loads(killed[0][1])["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    changes = [
        "study.finalists=1",
        "study.trials=2",
        "study.target=1.0",
        "study.pruner=none",
        "training.epochs=6",
    ]
    changes += [
        "augmentation.epochs=1",
        "limits.receptive_field=20",
        "data.image_size=16",
    ]
    settings = [part for change in changes for part in ("--set", change)]
    file = str(ROOT / "studies" / "quickstart.toml")
    code = run(["launch", file, "--workers", "2", "--ray", ray, "--device", "cpu", *settings])
    killer.join()
    assert code == 1  # the budget is spent, the target not met
    trials = load_study("quickstart", url).get_trials()
    assert [(t.number, t.state.name) for t in trials] == [(0, "COMPLETE"), (1, "COMPLETE")]
    number, worker, epoch, accuracy = killed[0]
    again = trials[number]
    assert again.user_attrs["deaths"] == 1
    assert again.user_attrs["worker"]["pid"] != json.loads(worker)["pid"]
    assert sorted(again.intermediate_values) == [1, 2, 3, 4, 5, 6]
    assert again.intermediate_values[epoch] == accuracy


Row = tuple[int, str, int, float]


def _reported(database: Path) -> list[Row]:
    """Number, worker, epoch and accuracy of what running trials have reported.

    Read straight from the file, since a trial of a second is over before Optuna has looked.
    """
    if not (database.parent / "runs" / "quickstart" / "logs").exists():
        return []
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        return connection.execute(
            "SELECT number, value_json, step, intermediate_value FROM trials"
            " JOIN trial_user_attributes USING (trial_id)"
            " JOIN trial_intermediate_values USING (trial_id)"
            " WHERE state = 'RUNNING' AND key = 'worker'"
        ).fetchall()


def test_a_signal_reaches_the_workers_and_no_password_does_reach_ray(
    ray: str, head: tuple[str, Path], tmp_path: Path
) -> None:
    command = script(
        "signal.signal(signal.SIGTERM, lambda *_: print('got it', flush=True))\n"
        "print(os.environ['STUDY_STORAGE'][-6:], os.getcwd(), flush=True)\n"
        "signal.pause(); sys.exit(143)"
    )
    seen = set[str]()

    def tick() -> None:
        logs = [path.read_text() for path in tmp_path.iterdir()]
        if logs == [f"s3cr3t {Path.cwd()}\n"] * 2 and not seen:
            seen.update(_command_lines(head[1]))
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    ending = cluster.launch(Workers(command, "x://s3cr3t", 2, tmp_path), tick)
    assert ending == Ending("stopped by SIGINT", 130)
    assert {path.read_text()[-7:] for path in tmp_path.iterdir()} == {"got it\n"}
    assert signal.getsignal(signal.SIGINT) is before
    logs = [path for path in head[1].rglob("*") if path.is_file() and path.stat().st_size < 1e7]
    assert any("ray::worker" in line for line in seen)
    assert not [line for line in seen if "x://s3cr3t" in line]
    assert len(logs) > 5
    assert not [path for path in logs if b"x://s3cr3t" in path.read_bytes()]


def _command_lines(place: Path) -> Iterator[str]:
    for process in psutil.process_iter(["cmdline"]):
        yield " ".join(process.info["cmdline"] or [])


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        ("sys.exit(0)", Ending("why", 0)),
        ("sys.exit(2)", ConfigError("worker 0: why")),
        ("sys.exit(3)", MachineError("worker 0 ended with code 3: why")),
    ],
)
def test_workers_speak_for_the_study(
    ray: str, tmp_path: Path, end: str, outcome: Ending | Exception
) -> None:
    def launched() -> Ending:
        return cluster.launch(Workers(script(f"print('why'); {end}"), "x", 1, tmp_path))

    if isinstance(outcome, Ending):
        assert launched() == outcome
        return
    with pytest.raises(type(outcome)) as error:
        launched()
    assert str(error.value) == str(outcome)


def test_a_worker_that_always_dies_is_given_up(
    ray: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "RESTARTS", 1)
    command = script("print('why', flush=True); os.kill(os.getpid(), 9)")
    with pytest.raises(MachineError, match=r"code -9: why \(started 2 times\)"):
        cluster.launch(Workers(command, "x", 1, tmp_path))
    assert (tmp_path / "worker-0.log").read_text() == "why\n" * 2


def test_a_cluster_without_gpus_gives_none(ray: str) -> None:
    assert cluster._share(Workers([], "x", 2, Path())) == {
        "num_cpus": 1,
        "num_gpus": 0,
    }
    with pytest.raises(ConfigError, match="--per-gpu"):
        cluster._share(Workers([], "x", 1, Path(), "auto", 2))
    with pytest.raises(ConfigError, match="--device cuda:1"):
        cluster._share(Workers([], "x", 1, Path(), "cuda:1", None))


def test_gpus_are_shared(ray: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    asked = ((8, "auto", 4, 0.25), (2, "cuda", None, 1), (2, "cpu", None, 0))
    for count, device, per_gpu, gpus in asked:
        workers = Workers([], "x", count, Path(), device, per_gpu)
        assert cluster._share(workers) == {"num_cpus": 1, "num_gpus": gpus}


def test_sqlite_is_not_shared_between_machines(ray: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    with pytest.raises(ConfigError, match=r"cannot share a SQLite file.*postgresql://"):
        cluster._require_one_machine()


@pytest.mark.parametrize("address", ["somewhere", "ray://host:1", "host:0", "host:99999"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    joining = cluster.joined(address, shared=True)
    with pytest.raises(ConfigError, match=f"{address}: must read HOST:PORT"), joining:
        pass


def test_a_cluster_of_ours_lies_in_a_folder_of_ours() -> None:
    with cluster._options("local") as options:
        place = Path(options["_temp_dir"]).parent
        assert place.stat().st_mode & 0o777 == 0o700
    assert not place.exists()


def test_an_address_without_a_cluster_is_named() -> None:
    with pytest.raises(MachineError, match=r"127\.0\.0\.1:1: nobody answers"):
        cluster._require_answer("127.0.0.1:1", ("127.0.0.1", 1))


def test_without_ray_the_extra_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(["launch", str(own()), "--ray", "auto"]) == 3
    assert "pip install 'c1c4-search[ray]'" in capsys.readouterr().err
    assert [file.name for file in tmp_path.glob("**/*.*")] == ["quickstart.toml"]
