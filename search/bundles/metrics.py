"""`metrics.json`: everything that a bundle states in numbers.  Written and read here alone."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from search.bundles.contents import BundleError, read_json
from search.bundles.held_out import fingerprint
from search.config.candidate import Recipe
from search.config.files import leaves
from search.data.datasets import Dataset
from search.data.images import Images
from search.data.normalization import Normalization
from search.display import wording
from search.errors import shortened
from search.storage.finalists import Finalist
from search.storage.summary import Summary
from search.training.evaluation import Evaluation

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Loss = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
_Channels = Annotated[tuple[_Share, ...], Field(min_length=1, max_length=1_024)]
_Deviation = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class _Part(BaseModel):
    # Another version may state more; `stated` names what nobody compares.
    model_config = ConfigDict(extra="allow", frozen=True)


class Accuracy(_Part):
    """Shares of images classified correctly; `per_class` is of the test images, and its mean
    `test_balanced`.  `validation` is by the metric of the study."""

    test: _Share
    test_correct: _Count
    test_balanced: _Share | None = None
    validation: _Share | None = None
    test_loss: _Loss | None = None
    per_class: dict[str, _Share | None] = Field(default_factory=dict)

    @classmethod
    def of(
        cls, result: Evaluation, test: Images, classes: tuple[str, ...], validation: float
    ) -> Accuracy:
        """That of a network whose `result` on the `test` images is known."""
        correct = result.logits.argmax(axis=1) == test.labels
        members = {name: test.labels == k for k, name in enumerate(classes)}
        return cls(
            test=result.accuracy,
            test_correct=int(correct.sum()),
            test_balanced=result.balanced_accuracy,
            validation=validation,
            test_loss=result.loss if math.isfinite(result.loss) else None,
            per_class={
                name: float(correct[of].mean()) if of.any() else None
                for name, of in members.items()
            },
        )


class Int8File(_Part):
    """A network in int8: its bytes, how many test images it gets right, and the share of them
    that it sees as the network in float32 does."""

    bytes: _Count
    test: _Share
    test_correct: _Count
    agreement: _Share


class Arena(_Part):
    """Bytes that TensorFlow Lite Micro allocates: `head` for feature maps, `tail` for the rest."""

    total: _Count
    head: _Count
    tail: _Count


class Int8(_Part):
    """What was made for microcontrollers, and of what; `validation` are shares by format."""

    onnx: Int8File
    tflite: Int8File
    arena: Arena
    calibration_images: _Count
    calibration_seed: _Count
    fine_tuning_epochs: _Count
    validation: dict[str, _Share]
    versions: dict[str, Any] | None = None


class Data(_Part):
    """The images: `mean` and `std` per channel in [0, 1], counts, and what names them."""

    name: str | None = None
    mean: _Channels
    std: Annotated[tuple[_Deviation, ...], Field(min_length=1, max_length=1_024)]
    test_fingerprint: _Fingerprint
    classes: tuple[str, ...] | None = None
    train: _Count | None = None
    validation: _Count | None = None
    test: _Count | None = None
    fingerprint: str | None = None

    @classmethod
    def of(cls, dataset: Dataset, test: Images, normalization: Normalization) -> Data:
        """That of a data set as a network saw it."""
        return cls(
            name=dataset.name,
            classes=dataset.classes,
            train=len(dataset.train),
            validation=len(dataset.validation),
            test=len(test),
            mean=normalization.mean,
            std=normalization.std,
            fingerprint=dataset.fingerprint,
            test_fingerprint=fingerprint(test),
        )


class Again(_Part):
    """A finalist: its `accuracy` as the search measured it once; of as many `trainings` since,
    the `mean` with its standard `error` and the `probability` of being the best of them, or why
    it is `lost`."""

    trial: _Count
    accuracy: _Share
    trainings: _Count
    mean: _Share | None = None
    error: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    probability: _Share | None = None
    lost: str | None = None

    @classmethod
    def of(cls, finalist: Finalist) -> Again:
        """What the bundle of a study says of it."""
        return cls(
            trial=finalist.trial,
            accuracy=finalist.once,
            trainings=len(finalist.measures),
            mean=finalist.mean,
            error=finalist.error,
            probability=finalist.probability,
            lost=finalist.lost,
        )

    @property
    def words(self) -> str:
        """What is said where the accuracy of the search is."""
        return wording.repeated(self.mean or 0.0, self.error or 0.0, self.trainings)


class Search(_Part):
    """What the search came to: `trials` that ended, `pruned` and `failed` ones among them, and
    `proposals`, of which one may be `rejected` by several rules; `finalists`, the leader first,
    where they were trained again.  Beside these trials some networks were `given`, or `taken`
    over from other studies."""

    trials: _Count
    pruned: _Count
    failed: _Count
    proposals: _Count
    rejected: dict[str, _Count]
    finalists: tuple[Again, ...] = ()
    given: _Count = 0
    taken: _Count = 0

    @classmethod
    def of(cls, summary: Summary) -> Search:
        """That of a study."""
        return cls(
            trials=summary.finished,
            pruned=summary.states["pruned"],
            failed=summary.states["fail"],
            proposals=summary.proposed,
            rejected=summary.rejected,
            finalists=tuple(Again.of(each) for each in summary.standing.ordered),
            given=summary.given,
            taken=summary.taken,
        )


class Metrics(_Part):
    """The whole file; what a bundle made before need not state is None."""

    version: Literal[1]
    created: str | None = None
    study: str | None = None
    trial: _Count | None = None
    architecture: str | None = None
    candidate: str | None = None
    accuracy: Accuracy
    target: _Share | None = None
    search: Search | None = None
    retrained: bool | None = None
    receptive_field: _Count | None  # where a unit sees the whole image
    parameters: _Count
    macs: _Count
    cost: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)] | None] = Field(
        default_factory=dict
    )
    data: Data
    recipe: Recipe | None = None
    seeds: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None
    hardware: dict[str, Any] | None = None
    onnx_opset: _Count | None = None
    int8: Int8 | None = None
    files: dict[str, _Digest]

    def require_named(self, names: Iterable[str]) -> None:
        """Accepts a bundle that has the files `names`.

        Raises:
            BundleError: it has no digest of one.
        """
        missing = [name for name in names if name not in self.files]
        if missing:
            raise BundleError(f"metrics.json does not name {', '.join(missing)}")

    @property
    def again(self) -> Again | None:
        """The exported trial as a finalist, None where none has a mean."""
        finalists = self.search.finalists if self.search else ()
        means = (each for each in finalists if each.mean is not None)
        return next((each for each in means if each.trial == self.trial), None)


def read(content: bytes) -> Metrics:
    """What the file says.

    Raises:
        BundleError: naming the key and the value that mean nothing.
    """
    try:
        return Metrics.model_validate(read_json(content, "metrics.json"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        given = shortened(repr(first["input"]))
        raise BundleError(f"metrics.json: {where}: {first['msg']} (got {given})") from None


def written(metrics: Metrics, files: Mapping[str, bytes]) -> bytes:
    """The file: `metrics` with the SHA-256 of all other files of the bundle, by name."""
    digests = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    whole = metrics.model_copy(update={"files": digests})
    content = whole.model_dump(mode="json", exclude_unset=True)
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def stated(content: Any) -> Iterator[tuple[str, Any]]:
    """Every value that `content` holds, by its dotted key; a name of no letters leaves no dot."""
    for path, value in leaves(content):
        yield ".".join(str(name) for name in path if name != ""), value
