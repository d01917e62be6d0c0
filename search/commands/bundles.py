"""`export` and `verify`: a study's winner, and its proof."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from search.commands.answers import show_findings
from search.commands.typed import typed
from search.display import terminal
from search.study import Study
from search.targets import silent
from search.workers.supervisor import handled


def export(
    name: str,
    storage: str | None,
    overrides: Sequence[str],
    *,
    trial: int | None,
    out: Path | None,
    retrain: bool,
    int8: bool,
    device: str,
    modules: Sequence[str],
) -> int:
    """Writes the bundle of a study's winner."""
    study = Study(name, overrides=overrides, storage=storage, modules=modules)
    with handled(_stop), silent():
        bundle = study.export(
            out, trial=trial, retrain=retrain, int8=int8, device=device, progress=terminal.note
        )
    root = study.config.data.root
    elsewhere = ["--data", str(root)] if root.is_absolute() else []
    terminal.note(f"next: {typed('verify', bundle, *elsewhere)}")
    print(bundle / "README.md")  # whole, however long
    return 0


def _stop(number: int, _: FrameType | None) -> None:
    """Ends the export as an error does, which leaves nothing half done."""
    raise SystemExit(128 + number)


def verify(bundle: Path, root: Path | None, *, seed: int | None, as_json: bool) -> int:
    """Proves a bundle again."""
    from search.bundles.isolated import unlimited
    from search.bundles.verify import verify as prove

    findings = prove(bundle, root, seed)
    missing = unlimited()
    if missing:
        terminal.note(
            f"this system cannot bound a bundle's code in {', '.join(missing)}; "
            "verify a stranger's on Linux"
        )
    show_findings(findings, as_json=as_json)
    return 1 if any(finding.ok is False for finding in findings) else 0
