"""Studies in their databases: launch, worker, status, list, delete, dashboard."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from search.commands.answers import note_lacking, print_json
from search.commands.typed import typed
from search.config.files import require_name
from search.data import datasets
from search.display import terminal, wording
from search.display.live import LiveView
from search.errors import ConfigError, MachineError
from search.proposals.choices import ForeignError
from search.proposals.proposer import Acceptance
from search.storage.checkpoints import artifact_store
from search.storage.deletion import delete_study
from search.storage.internals import study_id
from search.storage.opening import require_writable
from search.storage.places import Place, find_place, places, require_no_database
from search.storage.studies import (
    find_study,
    load_study,
    study_names,
    study_storage,
)
from search.storage.summary import Summary, summarize
from search.storage.trials import Attributes, is_finalist
from search.study import Study
from search.targets import beginning, given_module, given_network, names_factory, silent, study_of
from search.workers.supervisor import Ending

RARE = 0.001  # of proposals accepted: below it, launch warns
_UNSAID = {"workers": 1, "device": "auto", "per_gpu": None, "ray": None}  # what `launch` then has


def launch(
    source: str,
    overrides: Sequence[str],
    storage: str | None,
    *,
    workers: int,
    per_gpu: int | None,
    device: str,
    ray: str | None,
    begin: str | None,
    modules: Sequence[str],
) -> int:
    """Creates or resumes the study of `source` and runs it in worker processes; `begin` names
    the network or the older study that it begins with, `modules` the code that it may run."""
    study = study_of(source, overrides, storage, modules)
    study.prepare()  # what is wrong or not there is told before torch is imported
    if modules and ray is None:  # of Ray's machines each has its own files
        _require_importable(modules)
    if begin is not None:
        beside = typed("train", begin, source, storage=storage, overrides=overrides)
        terminal.note(_begun(study, begin, storage, beside))
    with study.cluster(ray):
        terminal.note(_place(device, ray))
        note_lacking(study.config)
        _tell(study.estimate())
        terminal.note(wording.guessing(study.identity))
        if not modules:
            _tell_code(study)
        crew: dict[str, Any] = {
            "workers": workers,
            "device": device,
            "per_gpu": per_gpu,
            "ray": ray,
        }
        view, ending = _watched(study, partial(study.launch, **crew))
    told = partial(typed, storage=_told(study, storage), modules=modules)
    again = ["launch", source, *_options(**crew)]
    view.finish(ending.reason, *next_commands(view.summary, ending.code, again, told, overrides))
    return ending.code


def _require_importable(modules: Sequence[str]) -> None:
    """Tells before a study is made what each of its workers would."""
    from search.training.modules import Modules

    with silent():
        _ = Modules(modules).keys


def train(
    target: str, source: str, overrides: Sequence[str], storage: str | None, *, device: str
) -> int:
    """Trains the network that `target` names as a trial of the study of `source`."""
    modules = [target] if names_factory(target) else []
    study = study_of(source, overrides, storage, modules)
    number = _given(study, target, storage)
    terminal.note(_place(device, None))
    view, ending = _watched(study, partial(study.train, number, device=device))
    exported = ("export", study.name, "--trial", str(number))
    told = typed(*exported, storage=_told(study, storage), modules=modules)
    export = [] if datasets.without_test(study.config.data) else [told]
    command = ("train", target, source, *_options(device=device))
    again = typed(*command, storage=storage, overrides=overrides)
    view.finish(ending.reason, *([again] if ending.code else export))
    return ending.code


def _options(**crew: object) -> list[str]:
    """The options that say where workers run and how many, but for those that nobody gave."""
    given = {key: value for key, value in crew.items() if value != _UNSAID[key]}
    options = ((f"--{key.replace('_', '-')}", str(value)) for key, value in given.items())
    return [word for option in options for word in option]


def _told(study: Study, storage: str | None) -> str | None:
    """The `--storage` by which the study's name leads to it, None where none is needed."""
    here = storage is not None or find_place(None, None, study.name) == study.place
    return storage if here else study.place.secret


def _given(study: Study, target: str, storage: str | None) -> int:
    """The number of the trial that trains what `target` names."""
    if not names_factory(target):
        network, recipe = given_network(target, storage)
        return study.give(network, target, recipe)
    module = given_module(target, study)
    for line in wording.of_module(module.analysis, study.config.rules):
        terminal.note(line)
    return study.give(module, target)


def _begun(study: Study, source: str, storage: str | None, beside: str) -> str:
    """Gives the study what `launch --from` names; answers in a line.  `beside` is the command
    that trains a network which the study does not express."""
    named = beginning(source, storage)
    if isinstance(named, Study):
        return wording.inheritance(study.take_over(named), named.name)
    try:
        number = study.begin_with(*named)
    except ForeignError as error:
        raise ConfigError(
            f"{source}: the space of {study.name} does not express it: {error}; "
            f"widen [space], or train it beside the search: {beside}"
        ) from None
    return f"begins with {source} and {wording.plural(number, 'mutation')} of it"


def _place(device: str, ray: str | None) -> str:
    """Where the workers will run."""
    if ray is not None:
        from search.workers import cluster

        return cluster.cluster_in_words()
    from search.training.devices import choose_device, describe_device

    return f"device: {describe_device(choose_device(device))}"


def _watched(study: Study, run: Callable[..., Ending]) -> tuple[LiveView, Ending]:
    """What `run` comes to, under the live view."""
    from search.display.dashboard.refresh import Refresher

    running = study.create()
    terminal.note(f"study: {study.name} in {study.place}")
    refresher = Refresher(running)
    with study_storage(running).errors(), LiveView(running, study.config) as view:

        def tick() -> None:
            view.update()
            refresher.tick(view.summary)

        ending = run(tick=tick)
    for line in ending.notes:
        terminal.note(line)
    refresher.tick(summarize(running, study.config), at_once=True)
    return view, ending


def _tell(acceptance: Acceptance) -> None:
    if acceptance.share < RARE:
        terminal.note(f"warning: hardly a proposal is accepted; {acceptance.summary()}")
    else:
        terminal.note(
            f"of {acceptance.proposed:,} random proposals the checker accepts "
            f"{wording.percent(acceptance.share)}"
        )


def _tell_code(study: Study) -> None:
    """Names the trials that no worker of this launch can train again, as finalists are."""
    for trial in study.create().get_trials(deepcopy=False):
        if Attributes.of(trial).module and not is_finalist(trial):
            name = Attributes.of(trial).given
            terminal.note(f"trial {trial.number} is code: --module {name} lets it be trained here")


def next_commands(
    summary: Summary,
    code: int,
    launch: Sequence[str],
    told: Callable[..., str],
    overrides: Sequence[str],
) -> list[str]:
    """What can be typed after the command `launch` with `overrides` ended with `code`; `told`
    writes a command with its other options."""
    exportable = summary.best and not datasets.without_test(summary.config.data)
    export = [told("export", summary.name)] if exportable else []
    if code == 0:
        return export
    if code == 1:
        larger = _larger_budgets(summary)
        spent = tuple(f"study.{budget}=" for budget in larger)
        others = [change for change in overrides if not change.startswith(spent)]
        options = (f"--{budget} {value}" for budget, value in larger.items())
        return [*export, " ".join((told(*launch, overrides=others), *options))]
    return [told(*launch, overrides=overrides)]


def _larger_budgets(summary: Summary) -> dict[str, str]:
    """Twice each budget that is spent: hours may be by now that were not when the trials were,
    and trials that fail in a row end a search before either.  Another launch, with a larger one,
    may have gone beyond that of this one."""
    section, larger = summary.config.study, {}
    if summary.trained >= section.trials:
        larger["trials"] = f"{2 * max(section.trials, summary.trained)}"
    if section.hours is not None and not summary.left:
        larger["hours"] = f"{2 * max(section.hours, summary.spent / 3600):.3g}"
    return larger


def worker(
    name: str,
    overrides: Sequence[str],
    storage: str | None,
    *,
    root: Path | None,
    device: str,
    only: int | None,
    modules: Sequence[str],
) -> int:
    """Runs trials of an existing study in this process, or `only` the one of that number."""
    study = Study(name, overrides=overrides, storage=storage, root=root, modules=modules)
    ending = study.work(device=device, only=only)
    terminal.note(ending.reason)
    return ending.code


def status(name: str, storage: str | None, *, as_json: bool) -> int:
    """Shows what a study has come to."""
    study = Study(name, storage=storage).load()
    if as_json:
        print_json(terminal.status_json(study))
    else:
        terminal.show(terminal.render_status(study))
    return 0


def list_studies(storage: str | None, *, as_json: bool) -> int:
    """Shows which studies there are: at `storage`, or else in the databases of studies/."""
    found, there, unread = [], places(storage), False
    for place in there:
        try:
            names = study_names(place)
        except (ConfigError, MachineError) as error:  # one that is broken hides no other
            if len(there) == 1:
                raise
            terminal.note(str(error))
            unread = True
            continue
        for name in names:
            try:
                found.append(summarize(load_study(name, place)))
            except ConfigError as error:
                terminal.note(str(error))
                unread = True
    if as_json:
        print_json([summary.to_json() for summary in found])
    elif found:
        terminal.show(terminal.render_studies(found))
    elif not unread:
        where = f" in {there[0]}" if len(there) == 1 else ""
        terminal.note(f"no study yet{where}; next: " + typed("init"))
    return 0


def delete(name: str, storage: str | None, *, sure: bool) -> int:
    """Deletes a study with its trials, checkpoints and logs, after asking."""
    require_no_database(Path(name))
    name, place = _kept(name, storage)
    require_writable(place)
    study = find_study(name, place)  # one that is broken goes like any other
    kept, key = study_storage(study), study_id(study)
    with kept.errors():
        kept.recover(key)
        counts = Counter(kept.count(key, without=()))
    if running := counts[TrialState.RUNNING]:
        raise ConfigError(
            f"study {name}: {wording.plural(running, 'trial')} running; stop its workers first"
        )
    number, runs = wording.plural(counts.total(), "trial"), place.run_directory(name)
    if not sure and not terminal.confirmed(f"Delete study {name}, {number}, {runs}?"):
        terminal.note("nothing deleted; where nobody can be asked, --yes says so")
        return 1
    with kept.errors():
        gone = delete_study(study, place)
    if not gone:
        terminal.note(f"{runs}: kept, for files of another study of this name lie there")
    return 0


def _kept(source: str, storage: str | None) -> tuple[str, Place]:
    """The name of the study that a study file or a name means, and where it is kept; whether it
    can be read does not matter."""
    if source.endswith(".toml"):
        study = Study(source, storage=storage)
        return study.name, study.place
    return require_name(source), find_place(storage, None, source)


def dashboard(
    name: str, storage: str | None, *, host: str, port: int, token: bool, write: bool
) -> int:
    """Serves a study to browsers until Ctrl-C."""
    from search.display.dashboard.server import address, open_server, serve

    study, secret = Study(name, storage=storage), _token(token)
    shown, store = study.load(), artifact_store(study.runs)
    with open_server(shown, store, host=host, port=port, write=write, token=secret) as server:
        serve(server, shown, lambda: terminal.note(address(server, shown, secret)))
    return 0


def _token(asked: bool) -> str | None:
    """What a browser must present; no word of the command, which other users could read."""
    return os.environ.get("STUDY_TOKEN") or (secrets.token_urlsafe() if asked else None)
