"""The verdict and the optimism of the search, in sentences for people."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from autopeft.evidence.intervals import Interval, chance_if_alike
from autopeft.evidence.sequential import Look
from autopeft.records import MetricFacts, Verdict

KEPT = "default kept"  # the label where the baseline is handed over
_ONE_SIDED = 0.025  # chance of a wrong `better`
_ROUNDING = 1e-6  # share of the largest number below which another is taken for 0; chosen by hand


def sequential_verdict(
    seen: Look,
    *,
    metric: MetricFacts,
    fidelity: str,
    smallest_equivalent: str,
    n_diverged: int = 0,
    n_ran: int = 0,
    is_kept: bool = False,
) -> Verdict:
    """The verdict of a confirmation, with its sentence.

    Args:
        seen: Result of `look` on two seeds or more: the look that decided, or the last one.
        metric: Decides the unit of the sentence: points for a share, else the metric's own. Where less is
            better, the words lower and higher replace the sign.
        fidelity: Length of the confirming runs, `full` or `half`.
        smallest_equivalent: As in `Verdict`.
        n_diverged: Seeds of the best plan that diverged, for a second sentence.
        n_ran: Seeds that ran, where these are more than the look that decided has: the scores of further
            plans, which ran later, let it decide earlier.
        is_kept: The baseline is handed over after all; the verdict says why.

    Example:
        >>> from autopeft.evidence.sequential import look
        >>> seen = look([[1] * 90] * 3, [[0, 1] * 45] * 3, planned_seeds=5, margin=0.01)
        >>> accuracy = MetricFacts(name="accuracy", greater_is_better=True, is_share=True)
        >>> words = {"fidelity": "full", "smallest_equivalent": "proven"}
        >>> sequential_verdict(seen, metric=accuracy, **words).sentence[-49:]
        'confirmed at full length on 3 of at most 5 seeds.'
    """
    assert seen.interval is not None and seen.interval_90 is not None, "a verdict needs two seeds"
    length = {"full": "at full length", "half": "at half length"}[fidelity]
    subject = "the plan compared with it" if is_kept else "the best plan"
    sentence = _sentence(seen, subject=subject, metric=metric, length=length, n_ran=n_ran)
    if is_kept:
        sentence = f"The baseline is kept. {sentence}"
    if n_diverged:
        seeds = f"{n_diverged} seed{'s' if n_diverged > 1 else ''} of {subject}"
        sentence += f" Among them {seeds} diverged, counted with the worst score."
    return Verdict(
        label=KEPT if is_kept else seen.label,
        mean_difference=seen.interval.mean,
        interval_95=(seen.interval.low, seen.interval.high),
        margin=seen.margin,
        fidelity=fidelity,
        smallest_equivalent=smallest_equivalent,
        sentence=sentence,
        n_seeds=seen.n_seeds,
        planned_seeds=seen.planned_seeds,
        stopped_by=seen.reason,
        plain_difference=seen.mean_difference,
    )


def verdict_on_same_plan(
    *,
    margin: float,
    fidelity: str,
    smallest_equivalent: str,
    has_rivals: bool = True,
    has_finished: bool = True,
) -> Verdict:
    """The verdict where the search put the baseline first: nothing was compared, there is no interval.

    `has_rivals` says whether another plan was tried, `has_finished` whether a confirming run finished.
    """
    sentence = "The baseline is kept: no other plan promised more in the trial runs."
    if not has_rivals:
        sentence = "The baseline is kept: no other plan was tried."
    if not has_finished:
        sentence = (
            "The baseline is kept, but none of its confirming runs finished: it has no score and no weights."
        )
    return Verdict(
        label=KEPT,
        mean_difference=0.0,
        interval_95=None,
        margin=margin,
        fidelity=fidelity,
        smallest_equivalent=smallest_equivalent,
        sentence=sentence,
    )


def verdict_on_diverged(
    diverged: Collection[str],
    *,
    n_seeds: int,
    n_finished: int,
    is_kept: bool,
    margin: float,
    fidelity: str,
    smallest_equivalent: str,
) -> Verdict:
    """The verdict where all seeds of `incumbent`, `baseline` or both diverged. There is no interval.

    With `is_kept` the baseline is handed over, else the incumbent, of whose `n_seeds` runs `n_finished` did.
    """
    length = {"full": "full", "half": "half"}[fidelity]
    runs = f"none of the {n_seeds} confirming runs of {length} length"
    label = KEPT if is_kept else "inconclusive"
    sentence = f"The best plan cannot be told apart from the baseline, as {runs} of it finished."
    if is_kept and "baseline" in diverged:
        sentence = f"The baseline is kept, but {runs} finished, of it or of the plan compared with it."
    elif is_kept:
        sentence = f"The baseline is kept, as {runs} of the plan compared with it finished."
    elif "incumbent" not in diverged:
        finished = f"{runs} of the baseline finished and {n_finished} of the best plan did"
        sentence = f"The best plan is not proven better than the baseline: {finished}, which may be chance."
        if chance_if_alike(n_finished, n_seeds) <= _ONE_SIDED:
            label = "better"
            sentence = f"The best plan is better than the baseline, as {finished}."
    return Verdict(
        label=label,
        mean_difference=None,
        interval_95=None,
        margin=margin,
        fidelity=fidelity,
        smallest_equivalent=smallest_equivalent,
        sentence=f"{sentence} What diverged has no score to compare.",
        n_seeds=n_seeds,
    )


def verdict_without_confirmation(*, margin: float) -> Verdict:
    """The label `none` where nothing was confirmed; the sentence says how to confirm."""
    return Verdict(
        label="none",
        mean_difference=None,
        interval_95=None,
        margin=margin,
        fidelity="none",
        smallest_equivalent="the best itself",
        sentence="There is no verdict on the best plan: it was not confirmed on fresh seeds "
        "(--confirm full or --confirm half does that).",
    )


def optimism_sentence(
    *, promised: float, confirmed: float, std_error: float, n_tried: int, metric: MetricFacts
) -> str:
    """How much of the gain that the search promised was confirmed (selection bias, the "winner's curse").

    The best of many noisy numbers is too good, the more of them there were and the less their true values
    differ. A search run is shorter than a confirming one too, so length can explain part of a difference.

    `promised` is the best of `n_tried` plans minus the baseline at the last rung, on the search split;
    `confirmed` is the same from the confirmation, with its standard error > 0. Larger is better.

    Example:
        >>> accuracy = MetricFacts(name="accuracy", greater_is_better=True, is_share=True)
        >>> optimism_sentence(
        ...     promised=0.03, confirmed=0.01, std_error=0.004, n_tried=40, metric=accuracy
        ... )[-48:]
        'confirmation gave +1.0, 2.0 worse than promised.'
    """
    assert std_error > 0 and n_tried >= 1, (std_error, n_tried)
    unit, lost = _unit_of(metric), promised - confirmed
    is_optimistic, is_promise = lost > std_error, promised >= 0
    gains = [unit.factor * gain for gain in (promised, confirmed)]
    places = _decimals([*gains, unit.factor * lost] if is_optimistic else gains, least=unit.places)
    if is_optimistic:
        less = f"{unit.factor * lost:.{places}f}"
        end = f"{less} worse than promised." if is_promise else f"another {less} worse."
    elif lost < -std_error:
        end = "more than the search promised." if is_promise else "better than there."
    else:
        end = "the same within one standard error."
    if metric.greater_is_better:
        first, second = (f"{gain:+.{places}f}" for gain in gains)
        promise = f"{first} {unit.name} over the baseline for the best of {n_tried} plans, on its own split"
    else:
        first, second = (
            f"{abs(gain):.{places}f}{unit.suffix} {'above' if gain < 0 else 'below'}" for gain in gains
        )
        best = f"{metric.words} of the best of {n_tried} plans"
        promise = f"on its own split that the {best} is {first} the baseline's"
    if not is_promise:
        subject = f"the plan chosen of {n_tried}, for its loss, for its size or since it starts slowly,"
        first = f"{abs(gains[0]):.{places}f}"
        was = (
            f"{subject} was {first} {unit.name} below the baseline"
            if metric.greater_is_better
            else f"{subject} had {metric.words} {first}{unit.suffix} above the baseline's"
        )
        return f"On the split of the search {was}; the confirmation gave {second}, {end}"
    return f"The search promised {promise}; the confirmation gave {second}, {end}"


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """How differences are written: `factor` times the number, `places` decimals or more, then the unit."""

    factor: float
    places: int
    name: str
    suffix: str


def _unit_of(metric: MetricFacts) -> _Unit:
    """Points of 0.01 for a share, else the metric's own unit."""
    if metric.is_share:
        return _Unit(factor=100.0, places=1, name=f"points of {metric.words}", suffix=" points")
    return _Unit(factor=1.0, places=3, name=f"in {metric.words}", suffix="")


def _sentence(seen: Look, *, subject: str, metric: MetricFacts, length: str, n_ran: int) -> str:
    """One sentence for people about a plan, the subject."""
    assert seen.interval is not None and seen.interval_90 is not None
    interval, unit = seen.interval, _unit_of(metric)
    if seen.label == "equivalent":  # the interval that proves it
        low, high = seen.interval_90
        interval = replace(interval, mean=min(max(interval.mean, low), high), low=low, high=high, level=0.90)
    n_seeds = f"{seen.n_seeds} of at most {seen.planned_seeds}"
    where = f"{length} on {n_seeds if seen.n_seeds < seen.planned_seeds else seen.n_seeds} seeds"
    if seen.n_seeds < n_ran:
        where = f"{length} on the first {seen.n_seeds} of the {n_ran} seeds that ran"
    edge = unit.factor * seen.margin
    places = _decimals([unit.factor * interval.low, unit.factor * interval.high], least=unit.places)
    numbers = _difference(interval, metric=metric, label=seen.label, places=places)
    start = subject.capitalize()
    if seen.label in ("better", "worse"):
        link = " by" if metric.greater_is_better else ":"
        return f"{start} is {seen.label} than the baseline{link} {numbers}, confirmed {where}."
    within = f"the margin of {edge:.{_decimals([edge], least=unit.places)}f}{unit.suffix}"
    if seen.label == "equivalent":
        return f"{start} is equivalent to the baseline: {numbers} {where}, which is within {within}."
    beyond = "more confirm examples, or seeds beyond those planned,"
    more = beyond if seen.reason == "futile" else "more seeds or confirm examples"
    return (
        f"{start} cannot be told apart from the baseline: {numbers} {where}; neither a difference nor "
        f"equivalence within {within} is proven, and {more} would narrow the interval."
    )


def _difference(interval: Interval, *, metric: MetricFacts, label: str, places: int) -> str:
    """The difference of the best plan from the baseline, with its interval.

    Positive numbers favour the best plan where the label is open and more is better. A word replaces the
    sign elsewhere: better and worse, or lower and higher where less is better.
    """
    unit = _unit_of(metric)
    is_open = label not in ("better", "worse")
    is_signed = is_open and metric.greater_is_better
    is_turned = label == "worse" or (is_open and not is_signed and interval.mean < 0)
    bounds = (interval.mean, interval.low, interval.high)
    if is_turned:
        bounds = (-interval.mean, -interval.high, -interval.low)
    most = 1.0 if metric.is_share else math.inf  # few seeds of an F1 can give an interval beyond it
    # Adding 0.0 turns -0.0 into 0.0.
    values = (round(unit.factor * min(max(value, -most), most), places) + 0.0 for value in bounds)
    mean, low, high = (f"{value:{'+' if is_signed else ''}.{places}f}" for value in values)
    level = f"{interval.level:.0%}".replace("%", " %")
    if metric.greater_is_better:
        return f"{mean} {unit.name} ({level} interval {low} to {high})"
    side = "higher" if is_turned else "lower"
    return f"its {metric.words} is {side} by {mean}{unit.suffix} ({level} interval {low} to {high})"


def _decimals(values: Sequence[float], *, least: int) -> int:
    """Decimals, `least` to 12, with which no value reads as 0 but 0 and the rounding error of others."""
    largest = max(map(abs, values))
    shown = [value for value in values if abs(value) > _ROUNDING * largest]
    return next((n for n in range(least, 12) if all(round(value, n) for value in shown)), 12)
