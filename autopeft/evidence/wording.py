"""The verdict and its sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from autopeft.evidence.intervals import Interval, label, paired_interval
from autopeft.evidence.sequential import Look
from autopeft.records import Verdict

_LENGTH = {"full": "at full length", "half": "at half length"}


def verdict(
    best: npt.ArrayLike,
    baseline: npt.ArrayLike,
    *,
    margin: float,
    metric: str,
    fidelity: str,
    smallest_equivalent: str,
    span: float | None = 1.0,
) -> Verdict:
    """The verdict on a confirmed best plan against the baseline, with its sentence.

    Args:
        best: Scores, with `baseline`, `margin` and `span` as in `label`.
        baseline: Scores.
        margin: Largest difference that does not matter.
        metric: What the scores are, for the sentence ("accuracy", "loss").
        fidelity: Length of the confirming runs, `full` or `half`.
        smallest_equivalent: How the smallest plan stands; passed on.
        span: Width of the range; with 1 the sentence speaks of points (0.01).

    Raises:
        SpecError: As `label`.

    Example:
        >>> told = verdict(
        ...     [[1] * 90, [1] * 90], [[0, 1] * 45, [0, 1] * 45],
        ...     margin=0.01, metric="accuracy", fidelity="full", smallest_equivalent="proven",
        ... )
        >>> told.sentence[:69]
        'The best plan is better than the baseline by 50.0 points of accuracy '
    """
    interval = paired_interval(best, baseline, level=0.95, span=span)
    word = label(best, baseline, margin=margin, span=span)
    shown = paired_interval(best, baseline, level=0.90, span=span) if word == "equivalent" else interval
    where = f"{_LENGTH[fidelity]} on {np.asarray(best).shape[0]} seeds"
    return Verdict(
        label=word,
        mean_difference=interval.mean,
        interval_95=(interval.low, interval.high),
        margin=margin,
        fidelity=fidelity,
        smallest_equivalent=smallest_equivalent,
        sentence=_sentence(word, shown, margin=margin, metric=metric, where=where, in_points=span == 1),
    )


def sequential_verdict(
    seen: Look,
    *,
    metric: str,
    fidelity: str,
    smallest_equivalent: str,
    in_points: bool = True,
    n_diverged: int = 0,
) -> Verdict:
    """The verdict of the look that decided, or of the last one, with its sentence.

    Args:
        seen: What `look` returned, of two seeds or more.
        metric: What the scores are, for the sentence ("accuracy", "loss").
        fidelity: Length of the confirming runs, `full` or `half`.
        smallest_equivalent: How the smallest plan stands; passed on.
        in_points: Whether the scores lie in [0, 1], to be told in points (0.01).
        n_diverged: Seeds of the best plan that diverged; the sentence says so.

    Example:
        >>> from autopeft.evidence.sequential import look
        >>> seen = look([[1] * 90] * 3, [[0, 1] * 45] * 3, planned_seeds=5, margin=0.01)
        >>> told = sequential_verdict(
        ...     seen, metric="accuracy", fidelity="full", smallest_equivalent="proven"
        ... )
        >>> told.sentence[-49:]
        'confirmed at full length on 3 of at most 5 seeds.'
    """
    assert seen.interval is not None and seen.interval_90 is not None, "a verdict needs two seeds"
    shown = seen.interval
    if seen.label == "equivalent":
        low, high = seen.interval_90
        shown = replace(shown, mean=min(max(shown.mean, low), high), low=low, high=high, level=0.90)
    n_seeds = f"{seen.n_seeds} of at most {seen.planned_seeds}"
    where = f"{_LENGTH[fidelity]} on {n_seeds if seen.n_seeds < seen.planned_seeds else seen.n_seeds} seeds"
    sentence = _sentence(
        seen.label, shown, margin=seen.margin, metric=metric, where=where, in_points=in_points
    )
    if seen.reason == "futile":
        sentence = sentence.replace(
            "more seeds or confirm examples would", "more confirm examples, not seeds, would"
        )
    if n_diverged:
        runs = "1 seed of the best plan" if n_diverged == 1 else f"{n_diverged} seeds of the best plan"
        sentence += f" Among them {runs} diverged, counted with the lowest score."
    return Verdict(
        label=seen.label,
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


def verdict_on_same_plan(*, margin: float, fidelity: str, smallest_equivalent: str) -> Verdict:
    """The verdict where the best plan is the baseline itself: equal by identity, no interval."""
    return Verdict(
        label="equivalent",
        mean_difference=0.0,
        interval_95=None,
        margin=margin,
        fidelity=fidelity,
        smallest_equivalent=smallest_equivalent,
        sentence="The best plan is the baseline itself: the search found no plan that promises more.",
    )


def verdict_without_confirmation(*, margin: float, smallest_equivalent: str) -> Verdict:
    """The verdict where nothing was confirmed: there is none, and the sentence says so."""
    return Verdict(
        label="none",
        mean_difference=None,
        interval_95=None,
        margin=margin,
        fidelity="none",
        smallest_equivalent=smallest_equivalent,
        sentence="There is no verdict on the best plan: it was not confirmed on fresh seeds "
        "(--confirm full or --confirm half does that).",
    )


def _sentence(
    word: str, interval: Interval, *, margin: float, metric: str, where: str, in_points: bool
) -> str:
    """One sentence for people; signed numbers favour the best plan where they are positive."""
    factor = 100.0 if in_points else 1.0
    unit = f"points of {metric}" if in_points else f"in {metric}"
    mean, low, high = (factor * value for value in (interval.mean, interval.low, interval.high))
    edge = factor * margin
    places = _decimals((low, high, edge), least=1 if in_points else 3)
    level = f"{interval.level:.0%}".replace("%", " %")
    if word in ("better", "worse"):
        # A worse plan is worse by a positive number.
        mean, low, high = (mean, low, high) if word == "better" else (-mean, -high, -low)
        numbers = f"{mean:.{places}f} {unit} ({level} interval {low:.{places}f} to {high:.{places}f})"
        return f"The best plan is {word} than the baseline by {numbers}, confirmed {where}."
    sign = "" if in_points else ", plus in favour of the best plan"
    # Adding 0.0 turns -0.0 into 0.0.
    mean, low, high = (round(value, places) + 0.0 for value in (mean, low, high))
    bounds = f"{level} interval {low:+.{places}f} to {high:+.{places}f}{sign}"
    numbers = f"{mean:+.{places}f} {unit} ({bounds}) {where}"
    within = f"the margin of {edge:.{places}f}{' points' if in_points else ''}"
    if word == "equivalent":
        return f"The best plan is equivalent to the baseline: {numbers}, which is within {within}."
    return (
        f"The best plan is not told apart from the baseline: {numbers}; neither a difference nor "
        f"equality within {within} is shown, and more seeds or confirm examples would narrow the interval."
    )


def _decimals(values: tuple[float, ...], *, least: int) -> int:
    """Enough decimals, `least` to 6, that no value which is not 0 reads as 0."""
    for places in range(least, 6):
        if all(value == 0 or round(value, places) != 0 for value in values):
            return places
    return 6
