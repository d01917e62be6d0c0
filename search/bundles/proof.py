"""The checks of a bundle; each answers with what it found, or raises what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from constraints import Limits
from search.bundles import agreement, isolated, numbers, page
from search.bundles.agreement import DisagreementError, Tally
from search.bundles.card import require_card
from search.bundles.contents import BundleError, UnknownError
from search.bundles.files import fingerprint
from search.bundles.held_out import read_test_set
from search.bundles.int8.proof import Int8Proof
from search.bundles.isolated import Predict, RunError
from search.bundles.numbers import Found
from search.bundles.onnx_graph import require_plain_graph
from search.bundles.parts import Parts
from search.config.sections import DEFAULT_LIMITS, DataSection
from search.data.images import Images
from search.display import wording

FAILURES = (BundleError, DisagreementError, RunError)
_COUNTED = ("receptive_field", "parameters", "macs")


@dataclass(frozen=True)
class Proof:
    """The checks of one bundle; each answers with what it found."""

    parts: Parts
    data_root: Path | None
    seed: int

    @property
    def looks(self) -> Mapping[str, Callable[[], str]]:
        """The checks by name, in their order."""
        return {
            "rules": self._rules,
            "weights": self._weights,
            "code": self._code,
            "code, traced": self._traced,
            "code = weights": lambda: self._agree("model.py"),
            "onnx = weights": lambda: self._agree("model.onnx"),
            "numbers": self._numbers,
            "report": lambda: page.require_still(self.parts.files["report.html"]),
            "accuracy": self._accuracy,
            **(self._int8.looks if self._int8 else {}),
        }

    @cached_property
    def _int8(self) -> Int8Proof | None:
        stated = self.parts.stated.int8
        return Int8Proof(self.parts, stated, self._test_images) if stated else None

    def _test_images(self) -> Images:
        """Those on which accuracy is claimed.

        Raises:
            UnknownError: they are not here.
        """
        if not self._measured:
            others = "not measured: the images here are others than those of the test"
            raise UnknownError(others + self._remedy)
        return self._images

    def _rules(self) -> str:
        verdict, rules = self.parts.verdict, self.parts.config.rules
        for violation in verdict.violations:
            raise BundleError(f"{wording.rule(violation.rule)}: {violation.message}")
        told = "; ".join(
            f"{rule}: {wording.count(rule.found(verdict.analysis))}" for rule in rules.rules
        )
        weaker = _weaker(rules)
        return f"{told}. WEAKER THAN USUAL: {', '.join(weaker)}" if weaker else told

    def _weights(self) -> str:
        self.parts.reference()
        return f"{self.parts.verdict.analysis.parameters:,} parameters fit architecture.json"

    def _code(self) -> str:
        if isinstance(self.parts.judgment, str):
            raise BundleError(self.parts.judgment)
        return "model.py imports torch alone and calls layers alone"

    def _traced(self) -> str:
        parts = self.parts
        limits = parts.config.rules.to_mapping()
        verdict = isolated.traced(parts.code.code, parts.architecture.input, limits)
        expected = parts.verdict.to_json()
        try:
            broken = [f"{wording.rule(v['rule'])}: {v['message']}" for v in verdict["violations"]]
            differ = [key for key in _COUNTED if verdict[key] != expected[key]]
        except (KeyError, TypeError) as error:
            raise BundleError(f"model.py answers with no verdict ({error})") from None
        for message in broken:
            raise BundleError(message)
        for key in differ:
            raise BundleError(f"{key} is {verdict[key]}, but {expected[key]} in architecture.json")
        return "model.py, traced operation by operation, keeps every rule"

    def _agree(self, name: str) -> str:
        """On random images: fresh ones, which nobody could know."""
        images = agreement.probes(
            self.parts.architecture.input, self.parts.normalization, self.seed
        )
        with self._ways([name], len(images)) as ways:
            _, difference = agreement.compare(ways, images, self.parts.classes)
            agreement.compare(ways, images[:1], self.parts.classes)
        return (
            f"logits of {len(images)} random images (seed {self.seed}) agree within "
            f"{difference:.1g}"
        )

    @contextmanager
    def _ways(self, names: Iterable[str], images: int) -> Iterator[dict[str, Predict]]:
        """Our own way and those of `names`, each in its process."""
        parts, shape = self.parts, self.parts.architecture.input
        work = parts.work(2 * images)
        ways = {agreement.WEIGHTS: agreement.own(parts.reference())}
        with ExitStack() as stack:
            for name in names:
                if name == "model.py":
                    weights = parts.files["model.safetensors"]
                    process = isolated.network(parts.code.code, weights, shape, work)
                else:
                    require_plain_graph(parts.files["model.onnx"])
                    process = isolated.onnx(parts.files["model.onnx"], shape, work)
                ways[name] = stack.enter_context(process)
            yield ways

    @cached_property
    def _tally(self) -> Tally:
        """What all ways make of the test images, which must be the same, image by image."""
        parts, images = self.parts, self._images
        tally = Tally(parts.classes)
        with self._ways(self._runnable, len(images)) as ways:
            for inputs, labels in agreement.batches(images, parts.normalization):
                logits, _ = agreement.compare(ways, inputs, parts.classes)
                tally.add(logits, labels)
        return tally

    @property
    def _runnable(self) -> list[str]:
        refused = isinstance(self.parts.judgment, str)
        return ["model.onnx"] if refused else ["model.py", "model.onnx"]

    @cached_property
    def _images(self) -> Images:
        shape = self.parts.architecture.input
        images = read_test_set(self._section, None if self.data_root else self.parts.place)
        _, height, width, channels = images.pixels.shape
        if (channels, height, width) != shape or images.labels.max() >= self.parts.classes:
            raise UnknownError(
                f"not measured: the images here are no {list(shape)} of these classes{self._remedy}"
            )
        return images

    @property
    def _section(self) -> DataSection:
        section = self.parts.config.data
        return section.model_copy(update={"root": self.data_root}) if self.data_root else section

    @property
    def _remedy(self) -> str:
        """What would prove more where the images of the test are not those at hand."""
        return "" if self._section.kind == "digits" else "; name theirs with --data DIR"

    @property
    def _measured(self) -> bool:
        """Whether the images on which accuracy is claimed are here."""
        return fingerprint(self._images) == self.parts.stated.data.test_fingerprint

    def _accuracy(self) -> str:
        tally, claim = self._tally, self.parts.stated.accuracy
        correct, total = int(tally.correct.sum()), int(tally.members.sum())
        share = wording.percent(correct / total)
        if not self._measured:
            raise UnknownError(
                f"{share} on the images here, others than those of the test{self._remedy}"
            )
        if abs(correct - claim.test_correct) > numbers.tolerance(total):
            told = wording.percent(claim.test)
            raise BundleError(
                f"{share} of the test images ({correct}), not {told} ({claim.test_correct})"
            )
        ways = ", ".join([agreement.WEIGHTS, *self._runnable])
        where = "" if self._section.kind == "digits" else f" in {self._section.root}"
        return f"{share} of {total:,} test images{where}, by {ways}, which agree on each"

    def _numbers(self) -> str:
        parts, stated = self.parts, self.parts.stated
        found = {**numbers.from_itself(stated), **self._exact, **self._logged}
        try:
            if self._measured:
                found |= numbers.from_tally(self._tally, stated.data.classes)
                found["data.test_fingerprint"] = (stated.data.test_fingerprint, 0)
                found |= self._int8.found if self._int8 else {}
        except (*FAILURES, UnknownError):
            pass  # `accuracy` says so
        if not isinstance(parts.judgment, str):
            numbers.require_constants(parts.judgment.constants, stated)
        require_card(parts.files["README.md"], stated.model_dump())
        headline = numbers.require_headline(parts.files["README.md"], stated)
        texts = (
            f"README.md{headline}, report.html, comments in model.py, figures, training_log.csv, "
            "which alone tells accuracy.validation and the costs of training"
        )
        return numbers.compare(stated, found, texts)

    @property
    def _logged(self) -> Found:
        parts = self.parts
        log, metric = parts.files["training_log.csv"], parts.config.study.metric
        return numbers.from_log(log, metric, parts.stated, parts.architecture)

    @property
    def _exact(self) -> Found:
        """What arithmetic and the study file tell."""
        config, facts = self.parts.config, self.parts.verdict.analysis
        sides = [side for side in facts.receptive_field if side is not None]
        values = {
            "parameters": facts.parameters,
            "macs": facts.macs,
            "receptive_field": min(sides, default=None),
            "architecture": self.parts.architecture.hash,
            "study": config.study.name,
            "target": config.study.target,
            "seeds.study": config.study.seed,
            "seeds.data": config.data.seed,
            "seeds.augmentation": config.augmentation.seed,
            "data.name": config.data.kind,
        }
        return {key: (value, 0) for key, value in values.items()}


def _weaker(limits: Limits) -> list[str]:
    """The rules of the requirement that `limits` asks less of, or nothing at all."""
    asked = {rule.key: rule for rule in limits.rules}
    return [
        f"{usual.words} {asked[usual.key].value if usual.key in asked else 'not asked'}, "
        f"usually {usual.value}"
        for usual in Limits.from_mapping(DEFAULT_LIMITS).rules
        if usual.key not in asked or asked[usual.key].asks_less(usual)
    ]
