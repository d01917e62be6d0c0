"""`init` and `doctor`: a first study file, and what this machine has."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from search.commands.answers import show_findings, write
from search.commands.typed import typed
from search.config.files import require_name
from search.display import terminal
from search.errors import ConfigError, MachineError
from search.presets import preset
from search.targets import study_of


def init(name: str, file: Path | None) -> int:
    """Writes the study file of a preset, never over another file.  The study has the file's name
    where it may: two files of one folder mean two studies."""
    path = file or Path("studies") / f"{name}.toml"
    text = preset(name)
    with suppress(ConfigError):
        text = text.replace(f'name = "{name}"', f'name = "{require_name(path.stem)}"', 1)
    if path.suffix != ".toml":  # other commands would take it for a study's name, or a network
        raise ConfigError(f"{path}: must end in .toml, as study files do")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
    except FileExistsError as error:  # the file, or one where its folder would be
        there = error.filename
        raise ConfigError(f"{there}: is there already; name another: init FILE") from None
    try:
        write(path, text)
    except MachineError:
        path.unlink()  # or the next try would find it there
        raise
    terminal.note(f"next: {typed('launch', path)}")
    print(path)
    return 0


def doctor(
    source: str, overrides: Sequence[str], storage: str | None, *, device: str, as_json: bool
) -> int:
    """Tells what is there and what is missing."""
    from search.doctor import examine

    study = study_of(source, overrides, storage)
    findings = examine(study.config, study.place, device)
    show_findings(findings, as_json=as_json)
    return 0 if all(finding.ok for finding in findings) else 3
