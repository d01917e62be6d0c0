"""What the checks of a bundle share: its images, and the ways to its logits."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from search.bundles import agreement, isolated, numbers
from search.bundles.agreement import DisagreementError, Logits, Tally
from search.bundles.bundle import WEIGHTS, Bundle
from search.bundles.contents import BundleError, UnknownError
from search.bundles.held_out import copies, fingerprint, read_test_set
from search.bundles.isolated import Predict, RunError
from search.bundles.numbers import Found
from search.bundles.onnx_graph import require_plain_graph
from search.config.sections import DataSection
from search.data.images import Images, Named
from search.display import wording

FAILURES = (BundleError, DisagreementError, RunError)


@dataclass(frozen=True)
class Proof:
    """A bundle that is being proved, by the images at hand; `seed` draws the random ones.

    What is foreign runs in a process of its own from its first check on, until the block ends.
    """

    bundle: Bundle
    data_root: Path | None
    seed: int
    _running: ExitStack = field(default_factory=ExitStack, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def test_images(self) -> Images:
        """Those on which accuracy is claimed.

        Raises:
            UnknownError: they are not here.
        """
        if not self.measured:
            others = "not measured: the images here are others than those of the test"
            raise UnknownError(others + self._remedy)
        return self._images

    @property
    def traced(self) -> Mapping[str, Any] | str:
        """The verdict on `model.py`, traced, or why there is none.

        Raises:
            UnknownError: it is not run.
        """
        return self._run if isinstance(self._run, str) else self._run[0]

    @cached_property
    def _run(self) -> tuple[Mapping[str, Any], Predict] | str:
        bundle = self.bundle
        weights, limits = bundle.files["model.safetensors"], bundle.config.rules.to_mapping()
        run = isolated.network(
            bundle.code.code, weights, bundle.architecture.input, limits, self._work
        )
        try:
            return self._running.enter_context(run)
        except RunError as error:
            return str(error)

    @property
    def _code(self) -> Predict:
        """The way of `model.py`, where it could be traced: another run would fail, or never end,
        likewise."""
        if isinstance(self._run, str):
            raise UnknownError("model.py is not run again")
        return self._run[1]

    @cached_property
    def _graph(self) -> Predict:
        graph, shape = self.bundle.files["model.onnx"], self.bundle.architecture.input
        require_plain_graph(graph, foreign=self.bundle.foreign)
        return self._running.enter_context(isolated.onnx(graph, shape, self._work))

    @cached_property
    def _reference(self) -> Predict:
        return agreement.own(self.bundle.reference())

    def _ways(self, *names: str) -> dict[str, Predict]:
        """The ways of those names."""
        return {name: self._way(name) for name in names}

    def _way(self, name: str) -> Predict:
        if name == WEIGHTS:
            return self._reference
        return self._code if name == "model.py" else self._graph

    @property
    def _work(self) -> float:
        """Twice the multiply-adds of all images that a way is asked for."""
        try:
            labelled = len(self._images)
        except UnknownError:
            labelled = 0
        return self.bundle.work(2 * (len(self._probes) + labelled))

    @cached_property
    def _probes(self) -> Logits:
        bundle = self.bundle
        return agreement.probes(bundle.architecture.input, bundle.normalization, self.seed)

    @cached_property
    def ways(self) -> tuple[str, ...]:
        """What makes logits of images here."""
        ways = self.bundle.ways
        if "model.py" in ways and isinstance(self.traced, str):
            return tuple(way for way in ways if way != "model.py")
        return ways

    @property
    def first(self) -> Predict:
        """The first of these, which the others must agree with."""
        return self._way(self.ways[0])

    def agree(self, name: str) -> str:
        """Says how near the logits of file `name` come to those of the weights, on random images:
        fresh ones, which nobody could know.

        Raises:
            BundleError, DisagreementError, RunError: not near enough.
        """
        images, ways = self._probes, self._ways(WEIGHTS, name)
        _, difference = agreement.compare(ways, images, self.bundle.classes)
        agreement.compare(ways, images[:1], self.bundle.classes)
        return (
            f"logits of {len(images)} random images (seed {self.seed}) agree within "
            f"{difference:.1g}"
        )

    @cached_property
    def _tally(self) -> Tally:
        """What all ways make of the test images, which must be the same, image by image."""
        bundle, images = self.bundle, self._images
        tally = Tally(bundle.classes)
        ways = self._ways(*self.ways)
        for inputs, labels in agreement.batches(images, bundle.normalization):
            logits, _ = agreement.compare(ways, inputs, bundle.classes)
            tally.add(logits, labels)
        return tally

    @property
    def _images(self) -> Images:
        return self._named[0]

    @cached_property
    def _named(self) -> Named:
        """The images at hand, and the names of their classes."""
        shape = self.bundle.architecture.input
        images, classes = read_test_set(
            self._section, None if self.data_root else self.bundle.place
        )
        _, height, width, channels = images.pixels.shape
        if (channels, height, width) != shape or images.labels.max() >= self.bundle.classes:
            raise UnknownError(
                f"not measured: the images here are no {list(shape)} of these classes{self._remedy}"
            )
        return images, classes

    @property
    def _section(self) -> DataSection:
        section = self.bundle.config.data
        return section.model_copy(update={"root": self.data_root}) if self.data_root else section

    @property
    def _remedy(self) -> str:
        """What would prove more where the images of the test are not those at hand."""
        return "" if self._section.kind == "digits" else "; name theirs with --data DIR"

    @property
    def measured(self) -> bool:
        """Whether the images on which accuracy is claimed are here."""
        return fingerprint(self._images) == self.bundle.stated.data.test_fingerprint

    def accuracy(self) -> str:
        """Says what was measured on the test images, where it is what the bundle claims.

        Raises:
            BundleError, DisagreementError, RunError: it is not.
            UnknownError: the images here are others.
        """
        tally, claim = self._tally, self.bundle.stated.accuracy
        correct, total = int(tally.correct.sum()), int(tally.members.sum())
        share = wording.percent(correct / total)
        if not self.measured:
            raise UnknownError(
                f"{share} on the images here, others than those of the test{self._remedy}"
            )
        if abs(correct - claim.test_correct) > agreement.tolerance(total):
            told = wording.percent(claim.test)
            raise BundleError(
                f"{share} of the test images ({correct}), not {told} ({claim.test_correct})"
            )
        ways = ", ".join(self.ways)
        alike = ", which agree on each" if len(self.ways) > 1 else " alone"
        where = "" if self._section.kind == "digits" else f" in {self._section.root}"
        twice = copies(self._images)
        copied = f" ({twice:,} of them copies of others)" if twice else ""
        return f"{share} of {total:,} test images{copied}{where}, by {ways}{alike}"

    @property
    def found(self) -> Found:
        """What the images here tell of the numbers in `metrics.json`."""
        stated = self.bundle.stated
        try:
            if not self.measured:
                return {}
            found = numbers.from_tally(self._tally, stated.data.classes)
        except (*FAILURES, UnknownError):
            return {}  # `accuracy` says so
        found |= {f"data.classes.{n}": (name, 0) for n, name in enumerate(self._named[1])}
        return found | {"data.test_fingerprint": (stated.data.test_fingerprint, 0)}
