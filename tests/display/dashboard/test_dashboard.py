"""The real server on a real study, asked by HTTP and looked at in a real browser."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import optuna
import pytest
import torch
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna_dashboard import get_note
from PIL import Image

from search.config.sections import StudyConfig
from search.data.datasets import Dataset
from search.display.dashboard import annotation, refresh, server
from search.errors import ConfigError, MachineError
from search.proposals.sampler import make_sampler
from search.storage.checkpoints import artifact_store, attach
from search.storage.summary import summarize
from search.study import Study
from search.training.trainer import Trainer
from search.workers.objective import Finished, Objective
from tests.pages import ROOT, SCREENSHOTS, Screenshot, write_files
from tests.synthetic_study import build, config, train_finalists

ROWS = 14  # trials of the synthetic study; the real one comes after them and two running ones
PICTURES = {"learning-curves", "confusion-matrix", "misclassified", "architecture"}


@dataclass
class Site:
    study: optuna.Study
    store: FileSystemArtifactStore
    real: int  # number of the trial that was really trained
    address: str
    port: int

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return self.ask("GET", path, **headers)

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers={"Accept-Encoding": "identity", **named})
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, dict(response.getheaders()), body


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("dashboard")
    study_config = _quick(config(pruner="none"))
    study = build(study_config, f"sqlite:///{folder}/demo.db", trials=ROWS, running=2)
    store = artifact_store(folder / "runs")
    _train_one(study, study_config, digits, store, folder)
    refresh.Refresher(study).tick(summarize(study), at_once=True)
    with serving(study, store) as (address, port):
        yield Site(study, store, ROWS + 2, address, port)


@contextlib.contextmanager
def serving(
    study: optuna.Study, store: FileSystemArtifactStore, **options: Any
) -> Iterator[tuple[str, int]]:
    """Address and port of a dashboard that answers."""
    with server.open_server(study, store, port=0, **options) as opened:
        thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.address(opened, study), opened.server_port
        finally:
            opened.shutdown()
            thread.join()


def _quick(study_config: StudyConfig) -> StudyConfig:
    training = study_config.training.model_copy(update={"epochs": 1, "precision": "float32"})
    augmentation = study_config.augmentation.model_copy(update={"epochs": 1})
    return study_config.model_copy(update={"training": training, "augmentation": augmentation})


def _train_one(
    study: optuna.Study,
    study_config: StudyConfig,
    digits: Dataset,
    store: FileSystemArtifactStore,
    folder: Path,
) -> None:
    few = replace(digits, train=digits.train.take(np.arange(200)))

    def annotate(finished: Finished) -> None:
        annotation.annotate(finished, study_config, few, store)

    study.sampler = make_sampler(study_config, few.input, len(few.classes))
    trainer = Trainer(study_config, few, torch.device("cpu"), cache=folder)
    objective = Objective(study_config, trainer, runs=folder / "runs", finished=annotate)
    study.optimize(objective, n_trials=1)


# ---------------------------------------------------------------------- what it shows


def test_the_study_note_holds_what_people_look_for(site: Site) -> None:
    note = get_note(site.study)
    best = site.study.best_trial
    number = site.study._study_id
    assert f"[#{best.number}](/dashboard/studies/{number}/trials?numbers={best.number})" in note
    assert f"{100 * site.study.best_value:.2f} %" in note
    assert "target **85.00 %**" in note
    assert "receptive field > 44" in note
    assert "parameters < 200,000" in note
    proposed = sum(t.user_attrs["proposals"] for t in site.study.trials)
    assert f"| proposed | &ensp;{proposed:,} |" in note


def test_a_trial_has_note_and_pictures(site: Site) -> None:
    trial = site.study.trials[site.real]
    note = get_note_of(site, trial)
    field, parameters = trial.user_attrs["receptive_field"], trial.user_attrs["parameters"]
    assert f"| ✓ | &ensp;receptive field > 44 | &ensp;{field} |" in note
    assert f"| ✓ | &ensp;parameters < 200,000 | &ensp;{parameters:,} |" in note
    assert "CLASSIFIER" in note
    shown = re.findall(r"!\[([^]]+)\]\((/artifacts/[^)]+)\)", note)
    assert {name.replace(" ", "-") for name, _ in shown} == {*PICTURES, "receptive-field"}
    assert [site.get(address)[0] for _, address in shown] == [200] * len(shown)
    for meta in get_all_artifact_meta(trial, storage=site.study._storage):
        assert meta.mimetype == "image/png"
        address = f"/artifacts/{site.study._study_id}/{trial._trial_id}/{meta.artifact_id}"
        _, _, first = site.get(address)
        pixels = matplotlib.image.imread(io.BytesIO(first), format="png")
        assert pixels.shape[1] > 500
        assert site.get(address)[2] == first, "drawn once, and kept"
        with site.store.open_reader(meta.artifact_id) as file:
            assert file.read() == first
        assert pixels[..., :3].std() > 0.01, "a picture is not one color"
    names = {m.filename for m in get_all_artifact_meta(trial, storage=site.study._storage)}
    assert names == {f"{name}.png" for name in {*PICTURES, "receptive-field"}}


def test_what_fills_screens_does_not_reach_the_browser(site: Site) -> None:
    detail = json.loads(site.get(f"/api/studies/{site.study._study_id}")[2])
    shown = {a["key"]: a["value"] for trial in detail["trials"] for a in trial["user_attrs"]}
    assert {"receptive_field", "parameters", "macs", "rejected", "device"} <= shown.keys()
    assert max(len(f"{key} {value}") for key, value in shown.items()) < 150
    assert not [value for value in shown.values() if value.startswith(("{", "["))], "no JSON"
    assert not {"candidate", "moment"} & shown.keys()
    kept = site.study.trials[site.real].user_attrs
    assert {"architecture", "recipe", "history"} <= kept.keys()


def get_note_of(site: Site, trial: optuna.trial.FrozenTrial) -> str:
    detail = json.loads(site.get(f"/api/studies/{site.study._study_id}")[2])
    found = next(t for t in detail["trials"] if t["trial_id"] == trial._trial_id)
    return str(found["note"]["body"])


def test_the_plots_lie_in_the_study(site: Site) -> None:
    detail = json.loads(site.get(f"/api/studies/{site.study._study_id}")[2])
    plots = {p["id"]: json.loads(p["graph_object"]) for p in detail["plotly_graph_objects"]}
    costs = {f"accuracy-over-{cost}" for cost in ("parameters", "MACs", "RF")}
    assert set(plots) == {*costs, "rejections-by-rule"}
    points = [p for trace in plots["accuracy-over-parameters"]["data"] for p in trace["x"]]
    completed = site.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    assert {t.user_attrs["parameters"] for t in completed} <= set(points)
    shapes = plots["accuracy-over-parameters"]["layout"]["shapes"]
    assert any(s["type"] == "rect" and s["x0"] == 200_000 for s in shapes)
    bars = plots["rejections-by-rule"]["data"][0]
    summary = summarize(site.study)
    assert sum(bars["x"]) == sum(summary.rejected.values())
    assert detail["objective_names"] == ["accuracy"]
    sortable = {a["key"] for a in detail["union_user_attrs"] if a["sortable"]}
    assert {"receptive_field", "parameters", "macs"} <= sortable


def test_an_empty_study_has_a_note_too(tmp_path: Path) -> None:
    study = build(config("empty"), f"sqlite:///{tmp_path}/e.db", trials=0, running=0)
    refresh.Refresher(study).tick(summarize(study), at_once=True)
    assert "No trial completed yet." in get_note(study)
    assert "Nothing proposed yet." in get_note(study)


def test_the_refresher_waits_for_news(tmp_path: Path) -> None:
    study = build(config(), f"sqlite:///{tmp_path}/d.db", trials=2, running=0)
    refresher = refresh.Refresher(study)
    refresher.tick(summarize(study))
    first = study.user_attrs["refreshed"]
    refresher.tick(summarize(study))
    assert study.user_attrs["refreshed"] == first, "nothing ended since"
    refresh.Refresher(study).tick(replace(summarize(study), trials=()))
    assert study.user_attrs["refreshed"] == first, "somebody else has just written"


def test_the_refresher_takes_the_training_of_a_finalist_for_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh.Refresher, "pause", 0.0)
    monkeypatch.setattr(refresh.Refresher, "share", 0.0)
    settings = config(finalists=2, finalist_trainings=4)
    study = build(settings, f"sqlite:///{tmp_path}/d.db", trials=3, running=0)
    refresher = refresh.Refresher(study)
    refresher.tick(summarize(study))
    assert "## Finalists" not in get_note(study)
    train_finalists(study, settings, lost=-1)
    refresher.tick(summarize(study))
    assert "## Finalists" in get_note(study)


# ------------------------------------------------------------------------- the guard


def test_it_answers_on_its_own_name_alone(site: Site) -> None:
    assert site.get("/api/studies")[0] == 200
    assert site.get("/api/studies", Host="evil.example")[0] == 421


def test_read_only_refuses_every_write(site: Site) -> None:
    number = site.study._study_id
    own = f"http://127.0.0.1:{site.port}"
    for method, path in (
        ("DELETE", f"/api/studies/{number}"),
        ("POST", "/api/studies"),
        ("POST", f"/api/studies/{number}/rename"),
        ("PUT", f"/api/studies/{number}/note"),
        ("POST", "/api/trials/1/tell"),
        ("POST", f"/api/artifacts/{number}/1"),
    ):
        status, _, body = site.ask(method, path, Origin=own, Sec_Fetch_Site="same-origin")
        assert status == 403
        assert "read-only" in json.loads(body)["reason"], "what the dashboard's page shows"
    assert json.loads(site.get("/api/studies")[2])["study_summaries"]


def test_write_is_for_the_own_page(tmp_path: Path) -> None:
    study = build(config(), f"sqlite:///{tmp_path}/d.db", trials=1, running=0)
    store = artifact_store(tmp_path / "runs")
    with serving(study, store, write=True) as (address, port):
        site = Site(study, store, 0, address, port)
        path = f"/api/studies/{study._study_id}"
        own = f"http://127.0.0.1:{site.port}"
        foreign = site.ask("DELETE", path, Origin="http://evil.example")[0]
        rebound = site.ask("DELETE", path, Host="evil.example", Origin="http://evil.example")[0]
        rightful = site.ask("DELETE", path, Origin=own, Sec_Fetch_Site="same-origin")[0]
    assert (foreign, rebound, rightful) == (403, 421, 204)


def test_an_artifact_runs_nothing(site: Site, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<script>document.title = 'scripts ' + 'ran'</script>")
    name = attach(site.study, page, site.store)
    status, headers, _ = site.get(f"/artifacts/{site.study._study_id}/{name}")
    assert status == 200
    assert headers["Content-Type"] == "text/html"
    assert headers["Content-Security-Policy"].startswith("sandbox")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers
    if BROWSER:
        url = f"http://127.0.0.1:{site.port}/artifacts/{site.study._study_id}/{name}"
        assert "scripts ran" not in _browse(url, tmp_path, "--dump-dom")


def test_the_network_needs_a_token(site: Site) -> None:
    with pytest.raises(ConfigError, match="give a token"):
        server.open_server(site.study, site.store, host="0.0.0.0", port=0)
    with pytest.raises(ConfigError, match="16 or more"):
        server.open_server(site.study, site.store, port=0, token="short")
    token = "0123456789abcdef"
    options: dict[str, Any] = {"host": "0.0.0.0", "port": 0, "token": token}
    with server.open_server(site.study, site.store, **options) as opened:
        shown = server.address(opened, site.study, token)
    assert shown.endswith(f"/dashboard/studies/{site.study._study_id}?token={token}")
    assert "0.0.0.0" not in shown


def test_a_taken_port_is_named(site: Site) -> None:
    with pytest.raises(MachineError, match=f"127.0.0.1:{site.port}: .*--port"):
        server.open_server(site.study, site.store, port=site.port)


def test_serve_announces_an_address_that_answers(tmp_path: Path) -> None:
    study = build(config(), f"sqlite:///{tmp_path}/d.db", trials=2, running=0)
    store = artifact_store(tmp_path / "runs")
    announced = threading.Event()
    opened = server.open_server(study, store, port=0)
    arguments = (opened, study, announced.set)
    threading.Thread(target=server.serve, args=arguments, daemon=True).start()
    assert announced.wait(20)
    with urllib.request.urlopen(server.address(opened, study), timeout=10) as response:
        assert b"Optuna Dashboard" in response.read()
    assert "Leaderboard" in get_note(study)


# ----------------------------------------------------------------------- the browser

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
    --disable-background-networking --disable-component-update --hide-scrollbars
    --virtual-time-budget=6000
"""


def _browse(url: str, folder: Path, *arguments: str) -> str:
    assert BROWSER
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [BROWSER, *FLAGS.split(), profile, *arguments, url],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout


NO_BROWSER = pytest.mark.skipif(not BROWSER, reason="no Chromium: nobody looked at the dashboard")
# A directory that keeps the pictures, as `make pictures` names it.
KEPT = Path(os.environ["SCREENSHOTS"]).resolve() if "SCREENSHOTS" in os.environ else None
TRIALS = 16


@pytest.fixture(scope="module")
def shown(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """What the browser looks at; for pictures that are kept, a real search: the tutorial's."""
    if not KEPT:
        yield site
        return
    place = tmp_path_factory.mktemp("tutorial")
    write_files("tutorial.md", place)
    subprocess.run([sys.executable, "make_shapes.py", "shapes"], cwd=place, check=True)
    with contextlib.chdir(place):
        search = Study("studies/shapes.toml", overrides=[f"study.trials={TRIALS}"])
        section = search.config.study
        endless = section.model_copy(update={"target": None})
        search.config = search.config.model_copy(update={"study": endless})
        search.create()
        search.work(device="cpu")
        # The file's target, now that the search went on beyond it.
        study = Study("studies/shapes.toml", overrides=[f"study.trials={TRIALS}"]).create()
        refresh.Refresher(study).tick(summarize(study), at_once=True)
        with serving(study, artifact_store(search.runs)) as (address, port):
            yield Site(study, site.store, _telling(study), address, port)


def _telling(study: optuna.Study) -> int:
    """The most accurate trial that misclassifies something: it has pictures of all kinds."""
    trials = [trial for trial in study.trials if trial.values and trial.values[0] < 1]
    return max(trials, key=lambda trial: trial.values[0]).number


def look(url: str, folder: Path, place: Path, size: tuple[int, int]) -> tuple[str, Any]:
    """The page at `url` as text and as pixels, which `place` is the file of."""
    width, height = size
    flags = (f"--window-size={width},{height}", "--dump-dom", f"--screenshot={place}")
    page = _browse(url, folder, *flags)
    pixels = matplotlib.image.imread(place)[..., :3]
    assert pixels.shape[:2] == (height, width)
    return page, pixels


@NO_BROWSER
@pytest.mark.parametrize("shot", SCREENSHOTS, ids=lambda shot: shot.name)
def test_a_browser_shows_it(shown: Site, tmp_path: Path, shot: Screenshot) -> None:
    url = shown.address + shot.path.format(trial=shown.real)
    place = (KEPT or tmp_path) / f"{shot.name}.png"
    page, pixels = look(url, tmp_path, place, shot.size)
    if KEPT:
        Image.open(place).convert("RGB").quantize().save(place, optimize=True)  # a third of it
    assert [word for word in shot.words if word not in page] == []
    content = pixels[80:, 100:]  # beside the bars of a page that may be empty
    assert (content < 0.7).any(axis=2).mean() > 0.01


@NO_BROWSER
def test_a_browser_shows_a_report(tmp_path: Path) -> None:
    url = (ROOT / "docs" / "results" / "cifar10" / "report.html").as_uri()
    page, pixels = look(url, tmp_path, tmp_path / "report.png", (820, 1120))
    assert "1. Objective" in page
    assert (pixels < 0.7).any(axis=2).mean() > 0.01
