"""What the checks of a bundle share: its images, and the ways to its logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from search.bundles import agreement, isolated, numbers
from search.bundles.agreement import DisagreementError, Tally
from search.bundles.bundle import WEIGHTS, Bundle
from search.bundles.contents import BundleError, UnknownError
from search.bundles.held_out import fingerprint, read_test_set
from search.bundles.isolated import Predict, RunError
from search.bundles.numbers import Found
from search.bundles.onnx_graph import require_plain_graph
from search.bundles.plain import Plain
from search.config.sections import DataSection
from search.data.images import Images
from search.display import wording

FAILURES = (BundleError, DisagreementError, RunError)


@dataclass(frozen=True)
class Proof:
    """A bundle that is being proved, by the images at hand; `seed` draws the random ones."""

    bundle: Bundle
    data_root: Path | None
    seed: int

    def test_images(self) -> Images:
        """Those on which accuracy is claimed.

        Raises:
            UnknownError: they are not here.
        """
        if not self.measured:
            others = "not measured: the images here are others than those of the test"
            raise UnknownError(others + self._remedy)
        return self._images

    @cached_property
    def traced(self) -> Mapping[str, Any] | str:
        """The verdict on `model.py`, traced, or why there is none.

        Raises:
            UnknownError: it is not run.
        """
        bundle = self.bundle
        limits = bundle.config.rules.to_mapping()
        try:
            return isolated.traced(bundle.code.code, bundle.architecture.input, limits)
        except RunError as error:
            return str(error)

    @property
    def code(self) -> Plain:
        """`model.py`, where it could be traced: another run would fail, or never end, likewise.

        Raises:
            UnknownError: it is not run.
        """
        if isinstance(self.traced, str):
            raise UnknownError("model.py is not run again")
        return self.bundle.code

    @cached_property
    def ways(self) -> tuple[str, ...]:
        """What makes logits of images here."""
        ways = self.bundle.ways
        if "model.py" in ways and isinstance(self.traced, str):
            return tuple(way for way in ways if way != "model.py")
        return ways

    def agree(self, name: str) -> str:
        """Says how near the logits of file `name` come to those of the weights, on random images:
        fresh ones, which nobody could know.

        Raises:
            BundleError, DisagreementError, RunError: not near enough.
        """
        images = agreement.probes(
            self.bundle.architecture.input, self.bundle.normalization, self.seed
        )
        with self._ways([WEIGHTS, name], len(images)) as ways:
            _, difference = agreement.compare(ways, images, self.bundle.classes)
            agreement.compare(ways, images[:1], self.bundle.classes)
        return (
            f"logits of {len(images)} random images (seed {self.seed}) agree within "
            f"{difference:.1g}"
        )

    @contextmanager
    def _ways(self, names: Iterable[str], images: int) -> Iterator[dict[str, Predict]]:
        """The ways of `names`; those that are foreign each in its process."""
        bundle, shape = self.bundle, self.bundle.architecture.input
        work = bundle.work(2 * images)
        ways: dict[str, Predict] = {}
        with ExitStack() as stack:
            for name in names:
                if name == WEIGHTS:
                    ways[name] = agreement.own(bundle.reference())
                    continue
                if name == "model.py":
                    weights = bundle.files["model.safetensors"]
                    process = isolated.network(self.code.code, weights, shape, work)
                else:
                    foreign = WEIGHTS not in bundle.ways
                    require_plain_graph(bundle.files["model.onnx"], foreign=foreign)
                    process = isolated.onnx(bundle.files["model.onnx"], shape, work)
                ways[name] = stack.enter_context(process)
            yield ways

    @cached_property
    def _tally(self) -> Tally:
        """What all ways make of the test images, which must be the same, image by image."""
        bundle, images = self.bundle, self._images
        tally = Tally(bundle.classes)
        with self._ways(self.ways, len(images)) as ways:
            for inputs, labels in agreement.batches(images, bundle.normalization):
                logits, _ = agreement.compare(ways, inputs, bundle.classes)
                tally.add(logits, labels)
        return tally

    @cached_property
    def _images(self) -> Images:
        shape = self.bundle.architecture.input
        images = read_test_set(self._section, None if self.data_root else self.bundle.place)
        _, height, width, channels = images.pixels.shape
        if (channels, height, width) != shape or images.labels.max() >= self.bundle.classes:
            raise UnknownError(
                f"not measured: the images here are no {list(shape)} of these classes{self._remedy}"
            )
        return images

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
        if abs(correct - claim.test_correct) > numbers.tolerance(total):
            told = wording.percent(claim.test)
            raise BundleError(
                f"{share} of the test images ({correct}), not {told} ({claim.test_correct})"
            )
        ways = ", ".join(self.ways)
        alike = ", which agree on each" if len(self.ways) > 1 else " alone"
        where = "" if self._section.kind == "digits" else f" in {self._section.root}"
        return f"{share} of {total:,} test images{where}, by {ways}{alike}"

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
        return found | {"data.test_fingerprint": (stated.data.test_fingerprint, 0)}
