"""A disk that is mounted for reading only: what does not write works there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from search.storage.studies import study_names
from tests.processes import ROOT, code, start
from tests.synthetic_study import build, config

COMMANDS = (["status", "demo", "--json"], ["check", "demo:0", "--json"], ["list", "--json"])
PROGRAM = f"""
import sys
from run_study import run
sys.exit(max(run([*words, "--storage", sys.argv[1]]) for words in {COMMANDS}))
"""


def _in_a_namespace(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`command`, for which alone `folder` is read-only."""
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" "$1" || exit 99; shift'
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
    return subprocess.run(
        [*own, "sh", "-c", f'{mount}; exec "$@"', "sh", str(folder), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if not shutil.which("unshare") or _in_a_namespace("true", folder=tmp_path).returncode:
        pytest.skip("this machine mounts nothing for a test")
    return tmp_path


def _build(url: str, leave: bool) -> None:
    build(config(), url)
    if leave:
        os._exit(0)  # as a killed process does: what it wrote stands in SQLite's log


@pytest.mark.parametrize("leave", [False, True], ids=["closed", "with its log"])
def test_a_study_on_a_read_only_disk_is_read(folder: Path, leave: bool) -> None:
    url = f"sqlite:///{folder}/demo.db"
    assert code(start(_build, url, leave)) == 0
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = _in_a_namespace(sys.executable, "-c", PROGRAM, url, folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"trials_left": 27' in done.stdout
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


WRITING = ("delete demo --yes", "launch {folder}/s.toml", "worker demo")
LOOK_AND_WRITE = f"""
import sys, urllib.request
from run_study import run
from search.storage.checkpoints import artifact_store
from search.study import Study
from tests.display.dashboard.test_dashboard import serving
folder, url = sys.argv[1:]
study = Study("demo", storage=url)
(study.cache / "augmented").mkdir()
with serving(study.load(), artifact_store(study.runs)) as (_, port):
    assert urllib.request.urlopen(f"http://127.0.0.1:{{port}}/api/studies/1").status == 200
for words in {WRITING}:
    assert run([*words.format(folder=folder).split(), "--storage", url]) == 3, words
"""


def test_there_a_study_is_shown_and_exported_and_what_writes_says_so(folder: Path) -> None:
    url = f"sqlite:///{folder}/demo.db"
    assert code(start(_build, url, False)) == 0
    (folder / "s.toml").write_text('[study]\nname = "demo"\n[data]\nkind = "digits"\n')
    program = (sys.executable, "-c", LOOK_AND_WRITE, str(folder), url)
    done = _in_a_namespace(*program, folder=folder)
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert len(told) == len(WRITING)
    for line in told:
        assert line.startswith("run_study: storage sqlite:///"), line
        assert "can be read here, and not written" in line


def test_a_study_file_on_a_read_only_disk_has_its_database_elsewhere(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = shutil.copy(ROOT / "studies" / "quickstart.toml", folder)
    launch = (sys.executable, "run_study.py", "launch", file)
    refused = _in_a_namespace(*launch, folder=folder)
    assert refused.returncode == 3
    assert "Read-only file system; name another place with --storage" in refused.stderr
    create = (
        "import sys; from search import Study; Study(sys.argv[1], storage=sys.argv[2]).create()"
    )
    url = f"sqlite:///{tmp_path_factory.mktemp('elsewhere')}/mine.db"
    program = (sys.executable, "-c", create, file, url)
    assert _in_a_namespace(*program, folder=folder).returncode == 0
    assert study_names(url) == ["quickstart"]
