"""How numbers, times and rules read, the same in the terminal, the dashboard and the notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from constraints import LIMITS, Limits
from search.analysis.device import RUNNING
from search.analysis.table import Analysis, LayerRow
from search.proposals.inheritance import Inheritance
from search.storage.finalists import Finalist, Standing, certainty
from search.storage.summary import Summary


def rule(name: str) -> str:
    """`receptive_field` -> `receptive field`; proposals are also rejected for what is no limit."""
    return LIMITS[name].words if name in LIMITS else name.replace("_", " ")


def memory(analysis: Analysis) -> list[str]:
    """What a network takes: in float32, and on a microcontroller in int8."""
    small = analysis.memory
    words = (
        f"no kernel for {', '.join(small.lacking)} in TensorFlow Lite Micro"
        if small.lacking
        else f"{small.flash:,} bytes of flash, {small.arena:,} of arena "
        f"({small.head:,} head, {small.tail:,} tail)"
    )
    return [
        f"float32: {4 * analysis.parameters:,} bytes of parameters, feature maps of at most "
        f"{analysis.activation_bytes:,}",
        f"int8: {words}",
    ]


def of_module(analysis: Analysis, limits: Limits) -> list[str]:
    """What to know of a module that was judged by `limits`."""
    asked, lines = {rule.key for rule in limits.rules}, list(analysis.notes)
    if "downsampling" in asked:
        lines.append("a module has no blocks: its stride-2 convolutions count wherever they stand")
    if asked & {"arena_bytes", "flash_bytes"}:
        lines.append(
            "a module's memory on a microcontroller is an estimate: what is no layer of the "
            "generator's counts as a sum"
        )
    return lines


# The columns of the original report's receptive-field table, after the operation's name.
_GEOMETRY = {
    "k": "kernel",
    "p": "padding",
    "s": "stride",
    "d": "dilation",
    "Jin": "j_in",
    "Nin": "n_in",
    "Nout": "n_out",
    "Rin": "r_in",
    "Rout": "r_out",
    "Jout": "j_out",
}
GEOMETRY = tuple(_GEOMETRY)
LEGEND = (
    "k kernel, p padding, s stride, d dilation; J jump (input pixels between neighboring units), "
    "N side of the map, R receptive field in pixels, before and after each layer"
)


def geometry(layer: LayerRow) -> list[str]:
    """The values of `GEOMETRY`; one number where the axes agree, else all of them."""
    row = layer.to_json()
    return [_spatial(row[key]) for key in _GEOMETRY.values()]


def _spatial(value: Any) -> str:
    if not isinstance(value, list):
        return "–" if value is None else str(value)
    words = [_spatial(member) for member in value]
    return words[0] if len(set(words)) == 1 else "×".join(words)


def percent(share: float | None, digits: int = 2) -> str:
    """0.8512 -> `85.12 %`; None -> a dash."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def guessing(data: Mapping[str, Any]) -> str:
    """What accuracy means where nothing is learned; `data` is a data set's identity."""
    largest, each = percent(data["largest class"]), percent(1 / len(data["classes"]))
    return f"always guessing the largest class gives {largest} accuracy, {each} balanced"


def lacking(names: Sequence[str]) -> str:
    """What `StudyConfig.lacking` means for a search."""
    return (
        f"TensorFlow Lite Micro has no {', '.join(names)}: networks with it are rejected, as the "
        f"limits on its memory ask; {RUNNING} run there"
    )


def count(number: int | None) -> str:
    """186570 -> `186,570`; None -> a dash."""
    return "–" if number is None else f"{number:,}"


def macs(number: int | None) -> str:
    """Multiply-adds in millions: 23140000 -> `23.14 M`; None -> a dash."""
    return "–" if number is None else f"{number / 1e6:,.2f} M"


def flops(pflop: float | None) -> str:
    """What a training cost, in the unit that reads: 0.036 (PFLOP) -> `36 TFLOP`; None -> a dash."""
    if pflop is None:
        return "–"
    # By three digits: 999.9 of a unit are one of the next.
    digits = float(f"{1e15 * pflop:.3g}")
    size, unit = next((pair for pair in _FLOPS if digits >= pair[0]), _FLOPS[-1])
    return f"{digits / size:.3g} {unit}"


_FLOPS = (
    (1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"),
)  # fmt: skip


# What a network is at a glance, after its name.
SIZES = ("RF", "parameters", "MACs")


def sizes(
    receptive_field: int | None, parameters: int | None, multiply_adds: int | None
) -> tuple[str, str, str]:
    """The values of `SIZES`: 61, 186570, 23140000 -> `61`, `186,570`, `23.14 M`."""
    return count(receptive_field), count(parameters), macs(multiply_adds)


def stages(proposed: int, accepted: int, rejected: Mapping[str, int]) -> dict[str, int]:
    """How many proposals there were, broke each rule (most first), and kept them all."""
    broken = sorted(rejected.items(), key=lambda entry: -entry[1])
    return {
        "proposed": proposed,
        **{f"✗ {rule(name)}": number for name, number in broken},
        "✓ accepted": accepted,
    }


def setting(value: Any) -> str:
    """A value of a study file, as people say it: True -> `yes`, 0.123456 -> `0.1235`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def of_budget(finished: int, budget: int) -> str:
    """How far a study has come: `14 of 40 trials`, or `20 trials (budget: 10)` beyond it."""
    if finished > budget:
        return f"{plural(finished, 'trial')} (budget: {budget:,})"
    return f"{finished:,} of {plural(budget, 'trial')}"


def others(summary: Summary) -> list[str]:
    """How many trials there are beside those of the search: `1 given`, `12 taken over`."""
    counts = {"given": summary.given, "taken over": summary.taken}
    return [f"{number:,} {words}" for words, number in counts.items() if number]


def inheritance(found: Inheritance, name: str) -> str:
    """What became of the trials of the older study `name`."""
    words = [f"took over {len(found.taken):,} of {plural(found.trials, 'trial')} of {name}"]
    left = ", ".join(f"{number:,} {reason}" for reason, number in found.left.most_common())
    words += [f"left: {left}"] if left else []
    if found.again:
        words.append(
            f"the best one of those whose accuracy does not compare ({found.differs}) "
            "will be trained first"
        )
    return "; ".join(words)


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds: 3723 -> `1:02:03`; 63 -> `1:03`; None -> a dash."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def spread(mean: float, error: float, digits: int = 2) -> str:
    """0.8512, 0.002 -> `85.12 ± 0.20 %`."""
    return f"{100 * mean:.{digits}f} ± {100 * error:.{digits}f} %"


def repeated(mean: float, error: float, trainings: int, digits: int = 2) -> str:
    """0.8512, 0.002, 4 -> `85.12 ± 0.20 % over 4 trainings`."""
    return f"{spread(mean, error, digits)} over {plural(trainings, 'training')}"


def leader(standing: Standing, trials: int) -> str | None:
    """What the finalists' trainings say of the best: `best of 42 trials: 85.6 % as measured
    once, 85.1 ± 0.2 % over 4 trainings, the best of 3 finalists with 97 % probability`."""
    found = standing.leader
    if not standing.begun or (found is None and standing.racing):
        return None
    number = plural(len(standing.finalists), "finalist")
    if found is None or found.mean is None or found.error is None:
        return f"{number} of {plural(trials, 'trial')}: all lost"
    surely = certainty(found.probability or 0.0)
    return (
        f"best of {plural(trials, 'trial')}: {percent(found.once, 1)} as measured once, "
        f"{repeated(found.mean, found.error, len(found.measures), 1)}"
        + (
            f", the best of {number} with {surely} probability"
            if len(standing.finalists) > 1
            else ""
        )
    )


def best(summary: Summary, *, unlike: bool = False) -> str:
    """What the best trial came to: `98.96 %`, or where cost is an objective `85.04 % for 30.4
    TFLOP`; among `unlike` studies `98.96 % balanced` where its accuracy is that."""
    first, section = summary.best[0], summary.config.study
    cost = first.pflop_to_target if section.goes_on else None
    kind = " balanced" if unlike and section.balanced else ""
    return percent(first.accuracy) + kind + ("" if cost is None else f" for {flops(cost)}")


def road(summary: Summary) -> str:
    """How far a study is on its way to the target: `97.57 % so far, 0.93 points to go`, `met with
    98.96 %, as measured once`."""
    if not summary.road:
        return "no trial completed yet"
    highest, target = summary.road[-1], summary.config.study.target
    if summary.met:
        return f"met with {best(summary)}, as measured once"
    to_go = "" if target is None else f", {100 * (target - highest):.2f} points to go"
    return f"{percent(highest)} so far{to_go}"


def finalist(each: Finalist) -> tuple[str, ...]:
    """The values of `FINALIST`: what was measured once, the mean since, over how many
    trainings, and the probability of being the best, or why it is lost."""
    mean = "–" if each.mean is None else spread(each.mean, each.error or 0.0)
    return (f"#{each.trial}", percent(each.once), mean, str(len(each.measures)), _chance(each))


def _chance(each: Finalist) -> str:
    if each.lost is not None:
        return f"lost: {each.lost}"
    if each.probability is None:
        return "–"
    return certainty(each.probability)


FINALIST = ("finalist", "measured once", "mean ± error", "trainings", "best")


# Where in its epoch a training is.
MOMENT = ("phase", "images/s")


def moment(now: Mapping[str, Any] | None) -> tuple[str, str]:
    """The values of `MOMENT`: `training 42 %`, `1,234`; nothing where that is not known."""
    if now is None:
        return "", ""
    share = f" {percent(now['done'], 0)}" if now["phase"] == "training" else ""
    speed = now["images_per_second"]
    return f"{now['phase']}{share}", "" if speed is None else count(speed)


def plural(number: int, noun: str) -> str:
    """1, `trial` -> `1 trial`; 2 -> `2 trials`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
