from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from search.errors import ConfigError, MachineError
from search.workers import supervisor
from search.workers.supervisor import Ending, Workers, handled, launch


def script(text: str) -> list[str]:
    return [sys.executable, "-c", f"import os, signal, sys, time\n{text}"]


def test_workers_get_the_storage_unseen(tmp_path: Path) -> None:
    seen: list[str] = []

    def look() -> None:
        for child in psutil.Process().children():
            with suppress(psutil.Error):  # it ends as we look
                seen.extend(child.cmdline())

    command = script("time.sleep(1); print(os.environ['STUDY_STORAGE'][:24])")
    ending = launch(Workers(command, "postgresql://me:s3cret@host/db", 2, tmp_path), look)
    assert ending == Ending("postgresql://me:s3cret@h", 0)
    assert "-c" in seen
    assert not [argument for argument in seen if "s3cret" in argument]


def test_a_worker_knows_its_launch_and_shares_no_terminal_with_it(tmp_path: Path) -> None:
    told = "os.environ['STUDY_SUPERVISOR'], os.getppid(), os.getsid(0) == os.getpid()"
    ending = launch(Workers(script(f"print({told})"), "x", 1, tmp_path))
    assert ending.reason == f"{os.getpid()} {os.getpid()} True"


def test_no_worker_starts_after_a_signal(tmp_path: Path) -> None:
    processes = supervisor._Processes(script("time.sleep(600)"), tmp_path)
    processes.pass_on(signal.SIGTERM, None)
    processes.start({})
    processes.end()
    assert processes.ending() == Ending("stopped by SIGTERM", 143)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ([(3, "a"), (1, "short"), (0, "met")], Ending("met", 0)),
        ([(-9, "a"), (2, "b"), (3, "c"), (1, "short")], Ending("short", 1)),
        ([(3, "a"), (2, "b")], MachineError("worker 0 ended with code 3: a")),
        ([(2, "b"), (3, "a")], ConfigError("worker 0: b")),
    ],
)
def test_one_that_reached_the_end_speaks_for_all(
    ends: list[tuple[int, str]], told: Ending | Exception
) -> None:
    if isinstance(told, Ending):
        assert supervisor.ending_of(ends) == told
        return
    with pytest.raises(type(told), match=str(told)):
        supervisor.ending_of(ends)


@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_speaks_for_the_study(tmp_path: Path, number: int) -> None:
    command = script(f"print('first'); print('why'); sys.exit({number})")
    assert launch(Workers(command, "x", 1, tmp_path)) == Ending("why", number)
    assert (tmp_path / "worker-0.log").read_text() == "first\nwhy\n"


def test_a_launch_tells_what_its_workers_warned_of(tmp_path: Path) -> None:
    log = tmp_path / "worker-0.log"
    log.write_text("warning: of another launch\n")
    command = script("print('warning: one'); print('a line'); print('warning: two'); print('why')")
    told = f"{log}: 2 warnings, the last: two"
    seen = list[str]()
    ending = launch(Workers(command, "x", 1, tmp_path), lambda: seen.append(log.read_text()))
    assert ending == Ending("why", 0, (told,))
    assert seen[-1] == log.read_text(), "who looks on sees the end"
    assert log.read_text().startswith("warning: of another launch\nwarning: one\n")


@pytest.mark.parametrize(
    ("end", "error", "words"),
    [
        ("sys.exit(2)", ConfigError, "worker 0: why"),
        ("sys.exit(3)", MachineError, "worker 0 ended with code 3: why"),
        ("os.kill(os.getpid(), 9)", MachineError, "worker 0 ended with code -9: why"),
    ],
)
def test_a_failed_worker_says_why(
    tmp_path: Path, end: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        launch(Workers(script(f"print('why', flush=True); {end}"), "x", 1, tmp_path))


def test_a_log_that_is_removed_meanwhile_is_read_all_the_same(tmp_path: Path) -> None:
    logs = tmp_path / "runs" / "logs"
    command = script("print('first', flush=True); time.sleep(1); print('why')")
    workers = Workers(command, "x", 1, logs)
    ending = launch(workers, lambda: shutil.rmtree(tmp_path / "runs", ignore_errors=True))
    assert ending == Ending("why", 0)


def test_a_study_goes_on_without_one_of_its_workers(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    command = script(
        f"try: os.mkdir({str(tmp_path / 'first')!r})\n"
        "except FileExistsError: time.sleep(0.8); print('done'); sys.exit(0)\n"
        "sys.exit(3)"
    )
    assert launch(Workers(command, "x", 3, tmp_path / "logs")) == Ending("done", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_every_worker_once(tmp_path: Path, number: signal.Signals) -> None:
    command = script(
        f"signal.signal({number:d}, lambda *_: print('got it'))\nprint('up', flush=True)\n"
        "signal.pause(); time.sleep(0.3)\nsys.exit(99)"
    )
    before, sent = signal.getsignal(number), []

    def tick() -> None:
        logs = [path.read_text() for path in tmp_path.iterdir()]
        if not sent and logs == ["up\n"] * 2:
            sent.append(number)
            os.kill(os.getpid(), number)

    ending = launch(Workers(command, "x", 2, tmp_path), tick)
    assert ending == Ending(f"stopped by {number.name}", 128 + number)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["up\ngot it\n"] * 2
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_the_parent_ignores_stays_ignored(number: signal.Signals) -> None:
    """As behind `nohup`, or a shell's `&`."""
    caught: list[int] = []
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with handled(lambda got, _: caught.append(got)):
            os.kill(os.getpid(), number)
            assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)
    assert not caught


def test_no_worker_outlives_a_failing_launch(tmp_path: Path) -> None:
    children: list[psutil.Process] = []

    def tick() -> None:
        children.extend(psutil.Process().children())
        raise MachineError("the view broke")

    with pytest.raises(MachineError, match="the view broke"):
        launch(Workers(script("time.sleep(600)"), "x", 2, tmp_path), tick)
    assert len(children) >= 2
    assert not [child for child in children if "time.sleep(600)" in _command_line(child)]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def test_workers_spread_over_the_visible_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8f")
    environments = supervisor._environments(Workers([], "x", 4, Path(), "auto", 2))
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments] == ["3", "GPU-8f", "3", "GPU-8f"]
    few = "--workers 5 at --per-gpu 2: GPUs needed 3, visible 2; without --per-gpu they share"
    with pytest.raises(ConfigError, match=few):
        supervisor._environments(Workers([], "x", 5, Path(), "auto", 2))
    unchanged = supervisor._environments(Workers([], "x", 1, Path(), "cpu"))
    assert unchanged[0]["CUDA_VISIBLE_DEVICES"] == "3,GPU-8f"


def test_workers_without_gpus_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    (alone,) = supervisor._environments(Workers([], "x", 1, Path()))
    assert alone["OMP_NUM_THREADS"] == str(cores)
    monkeypatch.setenv("OMP_NUM_THREADS", "99")
    (told,) = supervisor._environments(Workers([], "x", 1, Path()))
    assert told["OMP_NUM_THREADS"] == "99"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda _: [0, 2, 3, 5, 6, 7, 8])
    for workers, threads in ((2, "3"), (3, "2"), (9, "1")):
        environments = supervisor._environments(Workers([], "x", workers, Path()))
        assert [each["OMP_NUM_THREADS"] for each in environments] == [threads] * workers
