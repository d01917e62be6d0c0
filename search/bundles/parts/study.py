"""`study.toml`: what launches the study again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from search.bundles.findings import Findings
from search.bundles.numbers import Found
from search.bundles.parts.part import Part
from search.config.sections import StudyConfig


class StudyFile(Part):
    """The study file, as it was with all that was set on the command line."""

    names = ("study.toml",)

    @classmethod
    def write(cls, findings: Findings) -> Mapping[str, bytes]:
        return {"study.toml": study_file(findings.config).encode()}

    @property
    def found(self) -> Found:
        config, told = self.bundle.config, self.bundle.stated.data.name
        data = config.data
        # Of torchvision's the name, but that older bundles tell the kind.
        called = told if told in (data.name, data.kind) else data.kind
        return {
            "study": (config.study.name, 0),
            "target": (config.study.target, 0),
            "seeds.study": (config.study.seed, 0),
            "seeds.data": (config.data.seed, 0),
            "seeds.augmentation": (config.augmentation.seed, 0),
            "data.name": (called, 0),
        }


def study_file(config: StudyConfig) -> str:
    """The study file that launches `config` again, and tells nothing about this machine.

    An absolute `data.root` is written relative to the working directory, or, where it lies
    elsewhere, as its last name with a comment that says so.
    """
    root = config.data.root
    if not root.is_absolute():
        return config.to_toml()
    below = root.is_relative_to(Path.cwd())
    shown = root.relative_to(Path.cwd()) if below else Path(root.name)
    data = config.data.model_copy(update={"root": shown})
    text = config.model_copy(update={"data": data}).to_toml()
    return text if below else text.replace("[data]\n", f"[data]\n{_ELSEWHERE}", 1)


_ELSEWHERE = """\
# The images lay elsewhere: `launch study.toml --set data.root=DIR` names where they lie now,
# `verify BUNDLE --data DIR` too.
"""
