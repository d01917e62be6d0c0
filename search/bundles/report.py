"""The report of an exported network: one Markdown text, its figures, and the same as HTML.

Every number in it comes from `Findings`; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from constraints import Verdict
from search.analysis.table import LayerRow
from search.analysis.traced import module_of
from search.bundles import importance
from search.bundles.findings import Findings
from search.bundles.rival import Rivals
from search.config.sections import AugmentationSection
from search.data.augmentation import pipeline
from search.data.images import is_gray
from search.display import tables, wording
from search.display.figures import curves
from search.display.figures.columns import columns, growth
from search.display.figures.diagram import figure_architecture, figure_receptive_field
from search.display.figures.images import (
    figure_augmentations,
    figure_class_balance,
    figure_misclassified,
    figure_pixel_histogram,
    figure_samples,
)
from search.display.figures.search import (
    figure_funnel,
    figure_history,
    figure_importance,
    figure_tradeoff,
)
from search.display.figures.style import History, Pixels
from search.storage.summary import Summary
from search.templates import template

LEADERS = 5
SAMPLED = 20  # classes of which images are shown
AUGMENTED = 5  # images shown as they are augmented
MISTAKES = 25  # misclassified images shown

Rows = Sequence[Sequence[str]]


def report(findings: Findings) -> tuple[str, dict[str, Figure]]:
    """The Markdown, and the figures that it shows, by the names that it gives their files."""
    drawn = _figures(findings)
    named = {f"figures/{name}.png": figure for name, figure in drawn.items()}
    return _markdown(findings, set(drawn)), named


# ---------------------------------------------------------------------------- figures


def _figures(findings: Findings) -> dict[str, Figure]:
    data, target = findings.dataset, findings.config.study.target
    mistakes = findings.mistakes[:MISTAKES]
    drawn = {
        "class_balance": figure_class_balance(_balance(findings), data.classes),
        "pixel_values": figure_pixel_histogram(data.train.pixels),
        "samples": figure_samples(data.train.pixels, data.train.labels, data.classes[:SAMPLED]),
        "augmentations": _augmentations(findings),
        **_network_figures(findings),
        "learning_curves": curves.figure_learning_curves(
            _runs(findings), target, findings.config.study.metric
        ),
        "confusion_matrix": curves.figure_confusion_matrix(findings.confusion, data.classes),
        "class_accuracy": curves.figure_class_accuracy(data.classes, _class_accuracy(findings)),
        "misclassified": figure_misclassified(
            findings.test.pixels[mistakes],
            findings.test.labels[mistakes],
            findings.predicted[mistakes],
            data.classes,
            findings.confidence[mistakes],
        ),
        **_search_figures(findings),
    }
    found = findings.importance if findings.rivals else None
    if found:
        drawn["importance"] = figure_importance(found.shares, found.spreads, found.chance)
    return drawn


def _network_figures(findings: Findings) -> dict[str, Figure]:
    """Those that there are: a module may have no layer on a map, or none that sees a part of it."""
    network, image = findings.candidate.architecture, findings.dataset.train.pixels[0]
    limit = findings.config.rules.to_mapping().get("receptive_field")
    drawn = {"architecture": figure_architecture(network)} if columns(network) else {}
    if growth(network):
        drawn["receptive_field"] = figure_receptive_field(image, network, limit)
    return drawn


def _search_figures(findings: Findings) -> dict[str, Figure]:
    summary, config = findings.summary, findings.config
    limits = config.rules.to_mapping()
    stages = {
        "proposed": summary.proposed,
        "legal": summary.accepted,
        "trained": _trained(summary),
        "completed": summary.states["complete"],
    }
    measured = [
        trial
        for trial in summary.trials
        if trial.state in ("complete", "pruned") and trial.accuracy is not None
    ]
    completed = sorted(summary.best, key=lambda trial: trial.number)
    costs = {"parameters": "parameters", "MACs": "macs"}
    measure = config.study.measure
    return {
        "funnel": figure_funnel(stages, summary.rejected),
        "history": figure_history(
            [trial.number for trial in measured],
            [trial.accuracy or 0.0 for trial in measured],
            [trial.state != "complete" for trial in measured],
            config.study.target,
            measure,
        ),
        "tradeoff": figure_tradeoff(
            [trial.accuracy or 0.0 for trial in completed],
            {name: [getattr(t, key) or 0 for t in completed] for name, key in costs.items()},
            next((i for i, t in enumerate(completed) if t.number == findings.number), None),
            {name: limits[key] for name, key in costs.items() if key in limits},
            measure,
        ),
    }


def _trained(summary: Summary) -> int:
    return len(summary.own) - summary.states["waiting"]


def _seconds(summary: Summary) -> float:
    """Of all trainings that ran here, as `study_pflop` is their cost: those of finalists, too."""
    every = (*summary.trials, *summary.finals)
    return sum(trial.seconds or 0.0 for trial in every if not trial.taken)


def _balance(findings: Findings) -> dict[str, list[int]]:
    parts = {
        "training": findings.dataset.train,
        "validation": findings.dataset.validation,
        "test": findings.test,
    }
    count = len(findings.dataset.classes)
    return {
        name: np.bincount(images.labels, minlength=count).tolist() for name, images in parts.items()
    }


def _runs(findings: Findings) -> dict[str, History]:
    runs = {f"trial {findings.number}": findings.history}
    if findings.retraining:
        runs["retraining"] = findings.retraining
    return runs


def _class_accuracy(findings: Findings) -> list[float]:
    counts = findings.confusion
    return [float(n) for n in counts.diagonal() / np.maximum(counts.sum(axis=1), 1)]


def _augmentations(findings: Findings) -> Figure:
    """Each transform alone on real images, always applied, then the pipeline of the training."""
    data, section = findings.dataset, findings.config.augmentation
    strength = findings.candidate.recipe.augmentation_strength
    of_classes = [np.flatnonzero(data.train.labels == k)[0] for k in range(len(data.classes))]
    originals = data.train.pixels[of_classes[:AUGMENTED]]
    chances_of = ("flip_probability", "affine_probability", "hole_probability")
    never = {**dict.fromkeys(chances_of, 0.0), "extra": ()}
    chances = {
        "HorizontalFlip": ("flip_probability", section.flip_probability),
        "ShiftScaleRotate": ("affine_probability", section.affine_probability),
        "CoarseDropout": ("hole_probability", _hole_probability(section, strength)),
    }
    versions = {}
    for name, (key, chance) in chances.items():
        # The strength multiplies the probability of a hole, too.
        always = 1 / max(strength, 1e-9) if key == "hole_probability" else 1.0
        alone = section.model_copy(update={**never, key: always})
        versions[f"{name}\np = {chance:g}"] = _augmented(originals, alone, data.mean, strength)
    for extra in section.extra:
        certain = extra.model_copy(update={"p": 1.0})
        alone = section.model_copy(update={**never, "extra": (certain,)})
        name = f"{extra.name}\np = {extra.build().p:g}"
        versions[name] = _augmented(originals, alone, data.mean, strength)
    versions["all, as trained"] = _augmented(originals, section, data.mean, strength)
    return figure_augmentations(originals, versions)


def _augmented(
    images: Pixels, section: AugmentationSection, mean: Sequence[float], strength: float
) -> Pixels:
    transform = pipeline(section, mean, strength, seed=section.seed)
    return np.stack([transform(image=image)["image"] for image in images])


def _extra(section: AugmentationSection) -> list[tuple[str, str, str]]:
    """Name, settings and probability of each further transform, as albumentations has them."""
    rows = []
    for transform in section.extra:
        settings = {k: v for k, v in transform.arguments.items() if k != "p"}
        told = ", ".join(f"{key} = {value}" for key, value in settings.items()) or "its defaults"
        rows.append((transform.name, told, f"{transform.build().p:g}"))
    return rows


def _hole_probability(section: AugmentationSection, strength: float) -> float:
    return min(section.hole_probability * strength, 1.0)


# ------------------------------------------------------------------------------- text


def _markdown(findings: Findings, drawn: set[str]) -> str:
    section = findings.config.augmentation
    recipe = findings.candidate.recipe
    measure = findings.config.study.measure
    return template("README.md.jinja").render(
        f=findings,
        m=findings.metrics,
        module=module_of(findings.candidate.architecture),
        w=wording,
        drawn=drawn,
        verdicts=_verdicts(findings),
        layers=[_layer(row, findings.verdict) for row in findings.verdict.analysis.layers],
        fields=[_field(row) for row in _convolutions(findings.verdict)],
        balance=_balance(findings),
        sampled=min(SAMPLED, len(findings.dataset.classes)),
        channels=("gray",) if is_gray(findings.dataset.train.pixels) else ("red", "green", "blue"),
        augmentation=section,
        extra=_extra(section),
        hole_probability=_hole_probability(section, recipe.augmentation_strength),
        recipe=asdict(recipe),
        log=_log(findings),
        classes=_class_rows(findings),
        rivals=_rivals(findings.rivals, measure) if findings.rivals else None,
        seeds=importance.SEEDS,
        shuffles=importance.SHUFFLES,
        least=importance.LEAST_TRIALS,
        finalists=[wording.finalist(each) for each in findings.summary.standing.ordered],
        leader_titles=tables.leader_titles(findings.summary.config.study)[2:],
        leaders=[tables.leader(trial) for trial in findings.summary.best[:LEADERS]],
        mistakes=_mistakes_shown(len(findings.mistakes)),
        trained=_trained(findings.summary),
        seconds=_seconds(findings.summary),
    )


def _text(value: str) -> str:
    """A name from outside as Markdown that shows these very characters."""
    special = set("\\`*_[]<>|&~\n\r\t")
    return "".join(f"&#{ord(c)};" if c in special else c for c in value)


def _verdicts(findings: Findings) -> Rows:
    broken = {violation.rule: violation.message for violation in findings.verdict.violations}
    return [
        (
            str(rule),
            wording.count(rule.found(findings.verdict.analysis)),
            f"broken: {broken[rule.key]}" if rule.key in broken else "holds",
        )
        for rule in findings.config.rules.rules
    ]


def _layer(row: LayerRow, verdict: Verdict) -> Sequence[str]:
    kernel, _, stride, dilation = wording.geometry(row)[:4]
    words = f"{kernel if '×' in kernel else f'{kernel}×{kernel}'} {row.kind}"
    words += f", stride {stride}" if max(row.window.stride) > 1 else ""
    words += f", dilation {dilation}" if max(row.window.dilation) > 1 else ""
    share = row.parameters / max(verdict.analysis.parameters, 1)
    return (
        row.block,
        _text(row.name),
        row.kind if row.kind in ("gate", "linear") else words,
        _spatial(row.to_json()["n_out"]),
        wording.count(row.parameters),
        wording.percent(share, 1),
        wording.count(row.macs),
    )


def _convolutions(verdict: Verdict) -> list[LayerRow]:
    """Gates and classifier read the whole map: no receptive field is theirs."""
    return [
        row
        for row in verdict.analysis.layers
        if row.block != "O" and row.kind != "gate" and None not in row.r_out
    ]


def _field(row: LayerRow) -> Sequence[str]:
    return (_text(row.name), *wording.geometry(row))


def _spatial(value: Any) -> str:
    if isinstance(value, list):
        return "×".join(_spatial(member) for member in value)
    return "–" if value is None else f"{value}"


def _log(findings: Findings) -> Rows:
    """Epoch by epoch: the trial, and beside it the retraining."""
    searched = {record["epoch"]: record for record in findings.history}
    retrained = {record["epoch"]: record for record in findings.retraining}
    return [
        (
            str(epoch),
            _number((searched.get(epoch) or retrained[epoch])["learning_rate"]),
            *(
                _number(searched.get(epoch, {}).get(key))
                for key in ("train_loss", "validation_loss")
            ),
            wording.percent(searched.get(epoch, {}).get(findings.config.study.metric)),
            _number(retrained.get(epoch, {}).get("train_loss")),
        )
        for epoch in sorted(searched.keys() | retrained.keys())
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _class_rows(findings: Findings) -> Rows:
    counts, names = findings.confusion, findings.dataset.classes
    rows = []
    for k, (name, share) in enumerate(zip(names, _class_accuracy(findings), strict=True)):
        others = counts[k].copy()
        others[k] = 0
        worst = int(others.argmax())
        taken = f"{_text(names[worst])} ({others[worst]})" if others[worst] else "–"
        rows.append(
            (_text(name), wording.count(int(counts[k].sum())), wording.percent(share), taken)
        )
    return rows


def _rivals(rivals: Rivals, measure: str) -> Rows:
    """What tells the two apart; an accuracy over several trainings, where one has it."""
    this, other = rivals.this, rivals.other
    agains = [side.again for side in (this, other)]
    accuracies = (wording.percent(side.trial.accuracy) for side in (this, other))
    rows = [(f"{measure} as measured once", *accuracies)]
    if any(agains):
        rows.append(("mean ± error", *(each.words if each else "–" for each in agains)))
    sizes = [wording.sizes(*side.trial.sizes) for side in (this, other)]
    rows += [(name, a, b) for name, a, b in zip(wording.SIZES, *sizes, strict=True)]
    costs = (side.pflop for side in (this, other))
    rows.append(("cost", *map(wording.flops, costs)))
    chosen = rivals.differences.items()
    return rows + [(f"`{name}`", *map(wording.setting, pair)) for name, pair in chosen]


def _mistakes_shown(count: int) -> str:
    if count > MISTAKES:
        return f"the {MISTAKES} most confident mistakes"
    return "all of them" if count else "none"
