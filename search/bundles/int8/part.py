"""A bundle's int8 files: run again on images, they are what `metrics.json` says.

TensorFlow Lite Micro's word counts: it is what runs on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from search.bundles.agreement import tolerance
from search.bundles.bundle import Bundle
from search.bundles.contents import BundleError, UnknownError
from search.bundles.findings import Findings
from search.bundles.int8 import c_source, extra
from search.bundles.int8.running import Pair, Runner, Scores, agreement, correct
from search.bundles.metrics import Int8
from search.bundles.numbers import Found
from search.bundles.onnx_graph import require_plain_graph
from search.bundles.parts.part import Look, Part
from search.bundles.proof import FAILURES
from search.display import wording

# Of so many numbers one may differ between two runtimes, by one step: 0.03 % did of one network's,
# 0.37 % of another's (docs/results/mlperf-tiny.md), whose rounding errors meet in more layers.
RARE = 100
FEW = 10  # that may differ where there are not many hundreds


class Int8Files(Part):
    """The files that `export --int8` adds."""

    @classmethod
    def write(cls, findings: Findings) -> Mapping[str, bytes]:
        return findings.int8

    @classmethod
    def owns(cls, name: str, bundle: Bundle) -> bool:
        return bundle.stated.int8 is not None and name in c_source.NAMES

    @property
    def looks(self) -> Mapping[str, Look]:
        if self.bundle.stated.int8 is None:
            return {}
        return {"int8 files": self._files, "int8 onnx": self._onnx, "int8 device": self._device}

    @property
    def found(self) -> Found:
        """Everything that is measured here."""
        try:
            return self._measured if self.bundle.stated.int8 else {}
        except (*FAILURES, UnknownError):
            return {}  # the checks say so

    @property
    def _measured(self) -> Found:
        shares = {"onnx": self._graph_scores, "tflite": self._device_scores}
        found: Found = {f"int8.arena.{key}": (size, 0) for key, size in self._arena.items()}
        for name, scores in shares.items():
            slack = tolerance(len(scores)) if name == "onnx" else 0
            right, total = correct(scores, self.proof.test_images()), len(scores)
            found[f"int8.{name}.test_correct"] = right, slack
            found[f"int8.{name}.test"] = right / total, slack / total + 1e-9
            alike = agreement(scores, self._exact)
            found[f"int8.{name}.agreement"] = alike, tolerance(total) / total
        return found | self._sizes

    @property
    def _stated(self) -> Int8:
        if self.bundle.stated.int8 is None:
            raise UnknownError("metrics.json tells of no int8 files")
        return self.bundle.stated.int8

    def _files(self) -> str:
        bundle = self.bundle
        made = c_source.files(self._pair, self._stated.arena.total, bundle.normalization)
        for name, content in made.items():
            if bundle.files[name] != content:
                raise BundleError(f"{name} is not what {c_source.TFLITE} and metrics.json make")
        for key, (size, _) in self._sizes.items():
            told = getattr(self._stated, key.split(".")[1]).bytes
            if told != size:
                raise BundleError(f"metrics.json says {key} {told}, but it is {size}")
        return f"{c_source.SOURCE} holds the {len(self._pair.tflite):,} bytes of {c_source.TFLITE}"

    def _onnx(self) -> str:
        require_plain_graph(self._pair.onnx, c_source.ONNX, foreign=self.bundle.foreign)
        return self._counted("onnx", self._graph_scores)

    def _device(self) -> str:
        told = self._stated.arena.model_dump(include={"total", "head", "tail"})
        scores = self._device_scores
        if dict(self._arena) != told:
            raise BundleError(f"the arena takes {dict(self._arena)}, not {told}")
        differ = self._differing(scores, self._runner.litert(self._pair.tflite))
        counted = self._counted("tflite", scores)
        return (
            f"{counted}, within an arena of {self._arena['total']:,} bytes; LiteRT differs by a "
            f"step in {differ:,} of {scores.size:,} numbers"
        )

    def _counted(self, name: str, scores: Scores) -> str:
        right, total = correct(scores, self.proof.test_images()), len(scores)
        told = getattr(self._stated, name).test_correct
        if abs(right - told) > (tolerance(total) if name == "onnx" else 0):
            raise BundleError(f"{right:,} of {total:,} test images, not {told:,}")
        return f"{wording.percent(right / total)} of {total:,} test images"

    @staticmethod
    def _differing(scores: Scores, others: Scores) -> int:
        """How many numbers differ.

        Raises:
            BundleError: more than one of a hundred, or one by more than a step.
        """
        steps = np.abs(scores - others)
        count = int((steps > 0).sum())
        if steps.max() > 1 or count > max(FEW, scores.size // RARE):
            raise BundleError(
                f"{c_source.TFLITE}: LiteRT's reference kernels differ from TensorFlow Lite "
                f"Micro in {count:,} of {scores.size:,} numbers, by up to {steps.max():.0f}"
            )
        return count

    @property
    def _pair(self) -> Pair:
        missing = [name for name in c_source.NAMES if name not in self.bundle.files]
        if missing:
            raise BundleError(f"metrics.json does not name {', '.join(missing)}")
        return Pair(self.bundle.files[c_source.ONNX], self.bundle.files[c_source.TFLITE])

    @property
    def _sizes(self) -> Found:
        return {f"int8.{key}.bytes": (len(file), 0) for key, file in self._pair._asdict().items()}

    @property
    def _runner(self) -> Runner:
        return Runner(self.bundle.architecture, self.bundle.normalization, self.proof.test_images())

    @cached_property
    def _exact(self) -> Scores:
        return self._runner.scores(self.proof.first)

    @cached_property
    def _graph_scores(self) -> Scores:
        return self._runner.onnx(self._pair.onnx)

    @cached_property
    def _micro(self) -> tuple[Scores, Mapping[str, int]]:
        if extra.missing():
            raise UnknownError(f"not run: {extra.INSTALL}")
        return self._runner.micro(self._pair.tflite)

    @property
    def _device_scores(self) -> Scores:
        return self._micro[0]

    @property
    def _arena(self) -> Mapping[str, int]:
        return self._micro[1]
