"""Studies in their database: made, resumed, found, deleted; what they keep beside trials."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState

from search.config.files import parse
from search.config.sections import RESUMABLE, StudyConfig
from search.errors import ConfigError, NoStudyError, shortened
from search.storage.database import StudyStorage
from search.storage.internals import backend, study_id
from search.storage.opening import (
    GRACE,
    HEARTBEAT,
    ForeignDatabaseError,
    existing,
    open_storage,
    require_fit,
    require_writable,
)
from search.storage.places import Place

log = logging.getLogger(__name__)

# --- studies ---------------------------------------------------------------------------

STUDY_ATTRIBUTES = ("clock", "config", "data", "refreshed")
"""What this program keeps with a study, by the names of Optuna's attributes."""


def create_or_resume(
    config: StudyConfig,
    place: str | Place,
    *,
    data: Mapping[str, Any] | None = None,
    heartbeat: int = HEARTBEAT,
    grace: int = GRACE,
) -> optuna.Study:
    """The study that `config` names, made when it is missing; safe from many processes at once.

    `data` is what tells its images from others (`Dataset.identity`), and stays with it.  The
    caller sets `study.sampler` and `study.pruner`.

    Raises:
        ConfigError: the study exists and searches something else, or on other images; names
            what differs.
        MachineError: see `open_storage`.
    """
    place = Place.of(place)
    require_writable(place)
    with open_storage(place, heartbeat, grace) as storage:
        try:
            study = optuna.load_study(study_name=config.study.name, storage=storage)
        except KeyError:
            study = _create(config, storage)
        else:
            _require_same_search(config, study)
            require_same_data(study, data or {})
            _tell_of_workers(config, study, storage)
        if data is not None:
            study.set_user_attr("data", dict(data))
        # Worker processes read target and budget from here; a resume may change them.
        study.set_user_attr("config", _content(config))
    storage.trials = config.study.trials
    return study


def require_resumable(config: StudyConfig, place: Place) -> None:
    """Raises what `create_or_resume` would, before anything is made."""
    require_writable(place)
    require_fit(place)
    with existing(place) as storage:
        if storage and config.study.name in storage.names():
            study = optuna.load_study(study_name=config.study.name, storage=storage)
            _require_same_search(config, study)


def require_same_data(study: optuna.Study, data: Mapping[str, Any]) -> None:
    """Raises a `ConfigError` where `data` differs from what the study was begun on.

    A study from before this was kept has nothing to compare.
    """
    kept = images_of(study)
    for key, value in data.items():
        if kept.get(key, value) != value:
            raise ConfigError(
                f"data: study {study.study_name} was begun on other {key}: {_short(kept[key])} "
                f"then, {_short(value)} now; what is searched cannot change on resume: "
                "restore the images, or give the study another name"
            )


def _short(value: object) -> str:
    return shortened(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _create(config: StudyConfig, storage: StudyStorage) -> optuna.Study:
    goals = config.study.objectives
    study = optuna.create_study(
        study_name=config.study.name,
        storage=storage,
        directions=["maximize" if goal == "accuracy" else "minimize" for goal in goals],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # names of metrics, since 2023
        study.set_metric_names(list(goals))
    return study


def find_study(
    name: str, place: str | Place, *, heartbeat: int = HEARTBEAT, grace: int = GRACE
) -> optuna.Study:
    """The study `name`, whatever its settings are; nothing is made.

    Raises:
        ConfigError: there is no such study at `place`.
        MachineError: see `open_storage`.
    """
    place = Place.of(place)
    try:
        with existing(place, heartbeat, grace) as storage:
            if storage is None:
                lacking = "does not exist" if place.file and not place.file.exists() else "is empty"
                raise NoStudyError(f"no study {name}: {place} {lacking}; launch it first")
            try:
                return optuna.load_study(study_name=name, storage=storage)
            except KeyError:
                there = ", ".join(storage.names()) or "none"
                raise NoStudyError(f"no study {name} at {place}; there are: {there}") from None
    except ForeignDatabaseError as error:
        raise NoStudyError(f"no study {name}: {error}") from None


def load_study(
    name: str, place: str | Place, *, heartbeat: int = HEARTBEAT, grace: int = GRACE
) -> optuna.Study:
    """The study `name`, whose trials are bounded by its budget; nothing is made.

    Raises:
        ConfigError: there is no such study at `place`, or its settings do not read.
        MachineError: see `open_storage`.
    """
    study = find_study(name, place, heartbeat=heartbeat, grace=grace)
    with study_storage(study).errors():
        study_storage(study).trials = study_config(study).study.trials
    return study


def study_names(place: str | Place) -> list[str]:
    """The studies of this program at `place`.

    Raises:
        MachineError: see `open_storage`.
    """
    with existing(Place.of(place)) as storage:
        return storage.names("config") if storage else []


def study_config(study: optuna.Study) -> StudyConfig:
    """The configuration that a study was launched with.

    Raises:
        ConfigError: the study was not made by `create_or_resume`, or by that of another version.
    """
    try:
        return parse(study.user_attrs["config"], "config")
    except KeyError:
        raise ConfigError(f"study {study.study_name} was not made by this program") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"study {study.study_name}: its settings do not read here ({error}); if a newer "
            "version of this program made it, update this one"
        ) from None


def with_kept(config: StudyConfig, place: Place, keys: Collection[str]) -> StudyConfig:
    """`config` with those `keys` of `[study]` as the study has them, where there is one.

    Raises:
        ConfigError: what is changed does not go with what is kept.
        MachineError: see `open_storage`.
    """
    if not keys:
        return config
    name = config.study.name
    try:
        before = _content(study_config(load_study(name, place)))["study"]
    except NoStudyError:
        return config
    content = _content(config)
    kept = {key: before[key] for key in keys}
    return parse({**content, "study": {**content["study"], **kept}}, f"study {name}")


def validation_images(study: optuna.Study) -> int | None:
    """How many images a trial is measured on; None where an older study does not say."""
    count: int | None = images_of(study).get("validation images")
    return count


def images_of(study: optuna.Study) -> Mapping[str, Any]:
    """What tells a study's images from others; nothing where an older one did not keep it."""
    kept: Mapping[str, Any] = study.user_attrs.get("data", {})
    return kept


def study_storage(study: optuna.Study) -> StudyStorage:
    """The `StudyStorage` beneath Optuna's cache."""
    storage = backend(study)
    if not isinstance(storage, StudyStorage):
        raise TypeError(f"study {study.study_name} must lie in a StudyStorage, but got {storage}")
    return storage


def _content(config: StudyConfig) -> dict[str, Any]:
    content: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    return content


def _require_same_search(config: StudyConfig, study: optuna.Study) -> None:
    for _, difference in _differences(config, study):
        raise ConfigError(
            f"{difference}; what is searched cannot change on resume: "
            "restore it, or give the study another name"
        )


def require_same_candidates(config: StudyConfig, study: optuna.Study) -> None:
    """Raises a `ConfigError` where `config` asks for other networks or recipes than the study."""
    for key, difference in _differences(config, study):
        if key.startswith(("space.", "training.")) and key != "training.precision":
            raise ConfigError(
                f"{difference}; a trial keeps its network and its recipe: `train` takes it by "
                "another"
            )


def _differences(config: StudyConfig, study: optuna.Study) -> Iterator[tuple[str, str]]:
    """What of all that trials compare is not the study's: the key, and that in words."""
    # Validated again, so that keys that are new since then stand at their defaults.
    before, now = searched(study_config(study)), searched(config)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            has, asked = before.get(key), now.get(key)
            yield key, f"{key}: study {study.study_name} has {has}, this asks for {asked}"


def _tell_of_workers(config: StudyConfig, study: optuna.Study, storage: StudyStorage) -> None:
    """Says so where others work on the study until a target or a budget that is not this one."""
    before, now = study_config(study).study, config.study
    changed = [key for key in RESUMABLE if getattr(before, key) != getattr(now, key)]
    storage.recover(study_id(study))
    running = storage.count(study_id(study)).get(TrialState.RUNNING, 0)
    if running and changed:
        log.warning(
            "study %s runs already (trials: %d): those workers keep to %s until they end, "
            "those of this launch to %s",
            study.study_name,
            running,
            ", ".join(f"{key} = {getattr(before, key)}" for key in changed),
            ", ".join(f"{key} = {getattr(now, key)}" for key in changed),
        )


def searched(config: StudyConfig) -> dict[str, Any]:
    """All that trials compare, as dotted keys."""
    content = _content(config)
    for key in RESUMABLE:
        if not (key == "target" and config.study.goes_on):
            del content["study"][key]
    del content["data"]["root"]
    return dict(_flat(content, ""))


def _flat(content: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, content
