"""A study, as the command line and a notebook use it: launch, work, look, export."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import optuna
import psutil
from optuna.trial import TrialState

import constraints
from constraints import Limits, Verdict
from search.config import files, sections
from search.config.candidate import Recipe
from search.data import datasets
from search.data.augmentation import require_fit
from search.display import notebook
from search.errors import ConfigError, MachineError
from search.networks.network import Network
from search.proposals.asked import given, require_fitting, require_legal
from search.proposals.choices import ForeignError, expressed
from search.proposals.inheritance import Inheritance, inherit
from search.proposals.mutation import begin
from search.proposals.parameters import distributions
from search.proposals.proposer import Acceptance, InfeasibleError, Proposer, estimate, propose
from search.storage.checkpoints import artifact_store
from search.storage.given import give
from search.storage.opening import require_writable
from search.storage.places import Place, find_place, require_no_database
from search.storage.studies import (
    create_or_resume,
    load_study,
    require_resumable,
    require_same_candidates,
    require_same_data,
    study_config,
    with_kept,
)
from search.storage.summary import Summary, summarize
from search.storage.trials import Attributes
from search.trackers.named import require_trackers, trackers

if TYPE_CHECKING:
    from torch import nn

    from search.workers.supervisor import Ending

# Proposals that estimate the acceptance rate: a fraction of a second.
ESTIMATED = 2_000
EXPORTS = Path("exports")

log = logging.getLogger(__name__)

optuna.logging.set_verbosity(optuna.logging.WARNING)


def check(
    network: Network | nn.Module,
    limits: Limits | None = None,
    *,
    input: tuple[int, ...] = (3, 32, 32),
) -> Verdict:
    """The verdict on a network: its table, and the rules that it breaks.

    `limits` are those of the assignment where none are given; `input` is the shape of an
    image, which a module does not tell.

    Raises:
        ArchitectureError: a window does not fit on the map that it reads.
        TraceError: a module does something of which it is not known what it reads.
    """
    rules = limits or Limits.from_mapping(sections.DEFAULT_LIMITS)
    if isinstance(network, Network):
        return constraints.check(network, rules)
    from search.analysis.tracing.loading import require_module
    from search.analysis.tracing.trace import trace

    return constraints.check(trace(require_module(network), input), rules)


class Study:
    """The study that a study file describes, or that a database holds under a name.

    `source` is a study file (a `Path`, or text that ends in .toml) or the name of a study;
    `overrides` are `section.key=value` as with `--set`; `storage` is a database's URL; `root`
    is where the images lie, whatever the study says; `modules` (`file.py:factory` or
    `package.module:factory`) are what its trainings may run of others' code.  Nothing is made
    until `create` or `launch`.

    Raises:
        ConfigError: bad input, or no study of that name.
        MachineError: the database cannot be reached.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        overrides: str | Sequence[str] = (),
        storage: str | Place | None = None,
        root: str | Path | None = None,
        modules: str | Sequence[str] = (),
    ) -> None:
        self._prepared = False
        self._modules = _several(modules)
        self._overrides = _several(overrides)
        self.identity: dict[str, Any] = {}
        try:
            self.config, self.place = _read(source, self._overrides, storage)
        except ConfigError:
            require_no_database(Path(source))
            raise
        if root is not None:
            data = self.config.data.model_copy(update={"root": Path(root)})
            self.config = self.config.model_copy(update={"data": data})

    @property
    def name(self) -> str:
        return self.config.study.name

    @property
    def runs(self) -> Path:
        """Where checkpoints, artifacts and logs lie."""
        return self.place.run_directory(self.name)

    @cached_property
    def cache(self) -> Path:
        """Where all studies of one place share their augmented epochs; beside a disk that is for
        reading only, a folder that goes with this object."""
        if not self.place.is_read_only:
            return self.runs.parent.parent / "augmented"
        self._passing = TemporaryDirectory(prefix="augmented-", ignore_cleanup_errors=True)
        return Path(self._passing.name)

    def load(self) -> optuna.Study:
        """The study as Optuna knows it, with all its trials."""
        return load_study(self.name, self.place)

    @property
    def summary(self) -> Summary:
        """What the study has come to."""
        study = self.load()
        return summarize(study, self._searched(study))

    def _searched(self, study: optuna.Study) -> sections.StudyConfig:
        """By what the study is searched.  Where this object has not made or resumed it, its
        database knows, for its file may say something else by now; not where images lie here."""
        if "_created" in vars(self):
            return self.config
        kept = files.overridden(study_config(study), self._overrides)
        data = kept.data.model_copy(update={"root": self.config.data.root})
        return kept.model_copy(update={"data": data})

    def architecture(self, trial: int | None = None) -> Network:
        """The network of trial number `trial`, or of the best; an `Architecture`, unless that
        trial was given a module.

        Raises:
            ConfigError: nothing has completed yet, or not that trial.
        """
        from search.storage.finalists import choose
        from search.storage.trials import candidate_of

        return candidate_of(choose(self.load(), trial)).architecture

    def estimate(self) -> Acceptance:
        """What the checker does with random proposals.

        Raises:
            InfeasibleError: it accepts nothing within the budget of proposals.
        """
        return self._acceptance

    @cached_property
    def _acceptance(self) -> Acceptance:
        shape, classes = datasets.describe(self.config.data)
        rng = random.Random(self.config.study.seed)
        acceptance = estimate(self.config, shape, classes, ESTIMATED, rng)
        proposals = propose(self.config, shape, classes, rng)
        while not acceptance.accepted:
            if acceptance.proposed >= self.config.study.proposals:
                raise InfeasibleError(acceptance)
            acceptance.add(next(proposals))
        return acceptance

    @cached_property
    def _created(self) -> optuna.Study:
        self.prepare()
        return create_or_resume(self.config, self.place, data=self.identity)

    def prepare(self) -> None:
        """Raises what `create` would, without making the study; torch is not needed for it.

        Downloads and decodes the images.
        """
        if self._prepared:
            return
        from search.proposals.sampler import inner_sampler

        self._keep_what_is_unsaid()
        shape, _ = datasets.describe(self.config.data)
        require_fit(self.config.augmentation, shape)
        inner_sampler(self.config)  # raises what its workers would
        require_trackers(self.config.study.track)
        require_resumable(self.config, self.place)
        self.estimate()
        self.identity = datasets.load(self.config.data).identity  # before several workers would
        if datasets.without_test(self.config.data):
            log.warning("%s", datasets.without_test(self.config.data))
        self._prepared = True

    def _keep_what_is_unsaid(self) -> None:
        """A study goes on as it was begun where nothing else is asked for, though a default may
        be another one by now."""
        asked, unsaid = self.config.study, self.config.study.unsaid
        self.config = with_kept(self.config, self.place, unsaid)
        for key in sorted(unsaid):
            kept = getattr(self.config.study, key)
            if kept != getattr(asked, key):
                log.warning("study %s goes on with %s = %s, as it was begun", self.name, key, kept)

    def create(self) -> optuna.Study:
        """The study in its database, made or resumed; its data is there.

        Raises:
            InfeasibleError: the checker accepts nothing; no study is made.
        """
        return self._created

    def give(self, network: Network, name: str = "", like: Recipe | None = None) -> int:
        """The number of the trial that trains `network` by the study's recipe: one that has done
        so, else a new one, which waits for a worker and counts towards no budget.

        A study that is there keeps its target and its budget, but for what an override says.
        `name` is what it is called; what the study leaves open of the recipe is as in `like`,
        else the middle of its range.

        Raises:
            ConfigError: the network is for other images.
            RejectedError: it breaks a rule of the study.
        """
        changed = {override.partition("=")[0].strip() for override in self._overrides}
        budget = {key for key in sections.RESUMABLE if f"study.{key}" not in changed}
        self.config = with_kept(self.config, self.place, budget | self.config.study.unsaid)
        require_fitting(network, *datasets.describe(self.config.data))
        require_legal(network, self.config)
        candidate, choices = given(network, self.config, like)
        kinds = distributions(self.config)
        return give(self.create(), candidate, name or network.hash, choices, kinds)

    def begin_with(self, network: Network, like: Recipe | None = None) -> int:
        """Queues the choices that mean `network`, and some mutations of it, to be trained before
        others; of the recipe those of `like` that the study allows, the rest is the sampler's.
        Answers with the number of mutations.

        Raises:
            ForeignError: the space does not express it.
            RejectedError: it breaks a rule of the study.
        """
        shape, classes = datasets.describe(self.config.data)
        known, told = self.config.recipe_parameters, like.choices() if like else {}
        try:
            choices = expressed(network, self.config.space)
        except ForeignError:
            require_legal(network, self.config)  # what breaks a rule can be trained nowhere here
            raise
        meant = self.config.space.architecture(choices, input=shape, classes=classes)
        require_legal(meant, self.config)
        choices |= {k: v for k, v in told.items() if k in known and v in known[k]}
        rng = random.Random(f"{self.config.study.seed} {network.hash}")
        return begin(self.create(), choices, Proposer(self.config, shape, classes), rng)

    def take_over(self, old: Study) -> Inheritance:
        """Gives this study the trials of an older one that are legal here; those that were
        measured otherwise are queued, the best few of them."""
        if (old.name, old.place) == (self.name, self.place):
            raise ConfigError(f"study {self.name}: cannot take over from itself; name another")
        known, study = old.load(), self.create()
        every = study.get_trials(deepcopy=False)
        own = [Attributes.of(trial) for trial in every if trial.state is not TrialState.FAIL]
        held = {carried.candidate for carried in own if carried.candidate}
        shape, classes = datasets.describe(self.config.data)
        found = inherit(known, self.config, shape, classes, self.identity, held)
        found.give(study)
        return found

    def train(
        self, number: int, *, device: str = "auto", tick: Callable[[], None] | None = None
    ) -> Ending:
        """Trains the waiting trial of that number, and no other, in a worker process."""
        from search.workers import supervisor

        with self._shown(tick) as update:
            return self._launch(supervisor.launch, 1, device, None, update, "--trial", str(number))

    def launch(
        self,
        *,
        workers: int = 1,
        device: str = "auto",
        per_gpu: int | None = None,
        ray: str | None = None,
        tick: Callable[[], None] | None = None,
    ) -> Ending:
        """Creates or resumes the study and runs it in worker processes until it ends.

        They run on this machine, or on the Ray cluster at the address `ray`.  `tick` is called
        twice a second; without one, a notebook shows the study as it runs.

        Raises:
            ConfigError: `workers` or `per_gpu` is less than 1.
        """
        for option, count in (("workers", workers), ("per_gpu", per_gpu)):
            if count is not None and count < 1:
                raise ConfigError(f"{option} = {count}: must be at least 1")
        from search.workers import cluster, supervisor

        with self.cluster(ray):
            launch = supervisor.launch if ray is None else cluster.launch
            self.create()
            with self._shown(tick) as update:
                return self._launch(launch, workers, device, per_gpu, update)

    def _shown(self, tick: Callable[[], None] | None) -> AbstractContextManager[Callable[[], None]]:
        return notebook.live(lambda: self.summary) if tick is None else nullcontext(tick)

    def _launch(
        self,
        launch: Callable[..., Ending],
        workers: int,
        device: str,
        per_gpu: int | None,
        tick: Callable[[], None],
        *options: str,
    ) -> Ending:
        from search.workers.supervisor import Workers

        command = [sys.executable, "-m", "run_study", "worker", self.name, "--device", device]
        command += [f"--data={self.config.data.root}", *options]
        command += [f"--module={module}" for module in self._modules]
        # Another launch with another budget may write its own into the database meanwhile.
        budget = {"trials": self.config.study.trials, "hours": self.config.study.hours or ""}
        command += [f"--set=study.{key}={value}" for key, value in budget.items()]
        logs = self.runs / "logs"
        return launch(Workers(command, self.place.secret, workers, logs, device, per_gpu), tick)

    def cluster(self, ray: str | None) -> AbstractContextManager[None]:
        """While it lasts, this process is part of the Ray cluster at the address `ray`, if any.

        Raises:
            ConfigError: other machines of the cluster cannot reach the study's database.
            MachineError: there is no cluster, or no Ray.
        """
        if ray is None:
            return nullcontext()
        from search.workers.cluster import joined

        return joined(ray, shared=self.place.is_shared)

    def work(self, *, device: str = "auto", only: int | None = None) -> Ending:
        """Runs trials in this process, beside other workers, until the study ends; where `only`
        is the number of a trial, runs that one alone."""
        from search.display.dashboard.annotation import annotate
        from search.proposals.sampler import make_sampler
        from search.training.devices import choose_device
        from search.training.modules import Modules
        from search.training.trainer import Trainer
        from search.workers.objective import Objective, make_pruner
        from search.workers.worker import work

        require_writable(self.place)
        study = self.load()
        config = self._searched(study)
        dataset = datasets.load(config.data)
        require_same_data(study, dataset.identity)
        study.sampler = make_sampler(config, dataset.input, len(dataset.classes))
        study.pruner = make_pruner(config)
        store, modules = artifact_store(self.runs), Modules(self._modules)

        def make_objective(stop: Callable[[], str | None]) -> Objective:
            trainer = Trainer(
                config,
                dataset,
                choose_device(device),
                cache=self.cache,
                processes=psutil.cpu_count() or 1,
                modules=modules,
            )
            return Objective(
                config,
                trainer,
                runs=self.runs,
                stop=stop,
                finished=partial(annotate, config=config, dataset=dataset, store=store),
            )

        told = trackers(config.study.track, self.runs)
        return work(study, config, make_objective, only, told, modules)

    def export(
        self,
        out: str | Path | None = None,
        *,
        trial: int | None = None,
        retrain: bool = True,
        int8: bool = False,
        device: str = "auto",
        progress: Callable[[str], None] = lambda _: None,
    ) -> Path:
        """Writes the bundle of trial number `trial`, or of the best, with `int8` also for
        microcontrollers; answers with its path.

        Raises:
            ConfigError: an override that would change what the trial was.
        """
        from search.bundles.export import export
        from search.training.devices import choose_device
        from search.training.modules import Modules

        study = self.load()
        config = self._searched(study)
        require_same_candidates(config, study)
        return export(
            study,
            config,
            out=EXPORTS / self.name if out is None else Path(out),
            runs=self.runs,
            cache=self.cache,
            device=choose_device(device),
            trial=trial,
            retrain=retrain,
            processes=psutil.cpu_count() or 1,
            int8=int8,
            modules=Modules(self._modules),
            progress=progress,
        )

    def __repr__(self) -> str:
        return f"Study({self.name!r}, {len(self.config.parameters)} parameters)"


@notebook.html.register
def _(shown: Study) -> str:
    try:
        return notebook.html(shown.summary)
    except (ConfigError, MachineError):  # it is not in its database yet
        return notebook.html(shown.config)


def _several(words: str | Sequence[str]) -> Sequence[str]:
    """A text alone is a sequence too, of its letters, which nobody means."""
    return [words] if isinstance(words, str) else words


def _read(
    source: str | Path, overrides: Sequence[str], storage: str | Place | None
) -> tuple[sections.StudyConfig, Place]:
    """What the study is, and where it is kept."""
    if isinstance(source, Path) or source.endswith(".toml"):
        file = Path(source)
        config = files.load(file, overrides)
        return config, find_place(storage, config.study.storage, config.study.name, file)
    place = find_place(storage, None, files.require_name(source))
    kept = study_config(load_study(source, place))
    return files.overridden(kept, overrides), place
