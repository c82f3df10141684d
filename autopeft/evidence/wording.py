"""The verdict and the optimism of the search, in sentences for people."""

from __future__ import annotations

from dataclasses import replace

from autopeft.evidence.sequential import Look
from autopeft.records import Verdict


def sequential_verdict(
    seen: Look,
    *,
    metric: str,
    fidelity: str,
    smallest_equivalent: str,
    in_points: bool = True,
    n_diverged: int = 0,
) -> Verdict:
    """The verdict of a confirmation, with its sentence.

    Args:
        seen: Result of `look` on two seeds or more: the look that decided, or the last one.
        metric: Name of the scores in the sentence ("accuracy", "loss").
        fidelity: Length of the confirming runs, `full` or `half`.
        smallest_equivalent: As in `Verdict`.
        in_points: Gives scores in points (0.01), for scores in [0, 1].
        n_diverged: Seeds of the best plan that diverged, for a second sentence.

    Example:
        >>> from autopeft.evidence.sequential import look
        >>> seen = look([[1] * 90] * 3, [[0, 1] * 45] * 3, planned_seeds=5, margin=0.01)
        >>> words = {"metric": "accuracy", "fidelity": "full", "smallest_equivalent": "proven"}
        >>> sequential_verdict(seen, **words).sentence[-49:]
        'confirmed at full length on 3 of at most 5 seeds.'
    """
    assert seen.interval is not None and seen.interval_90 is not None, "a verdict needs two seeds"
    length = {"full": "at full length", "half": "at half length"}[fidelity]
    sentence = _sentence(seen, metric=metric, length=length, in_points=in_points)
    if n_diverged:
        seeds = f"{n_diverged} seed{'s' if n_diverged > 1 else ''} of the best plan"
        sentence += f" Among them {seeds} diverged, counted with the lowest score."
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
    """The label `none` where nothing was confirmed; the sentence says how to confirm."""
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


def optimism_sentence(
    *, promised: float, confirmed: float, std_error: float, n_tried: int, metric: str, in_points: bool = True
) -> str:
    """How much of the gain that the search promised was confirmed (selection bias, the "winner's curse").

    The best of many noisy numbers is too good, the more of them there were and the less their true values
    differ. A search run is shorter than a confirming one too, so length can explain part of a difference.

    `promised` is the best of `n_tried` plans minus the baseline at the last rung, on the search split;
    `confirmed` is the same from the confirmation, with its standard error > 0. Larger is better.

    Example:
        >>> optimism_sentence(
        ...     promised=0.03, confirmed=0.01, std_error=0.004, n_tried=40, metric="accuracy"
        ... )[-45:]
        'confirmation gave +1.0, so 2.0 were optimism.'
    """
    assert std_error > 0 and n_tried >= 1, (std_error, n_tried)
    lost = promised - confirmed
    factor, places, unit = (100.0, 1, f"points of {metric}") if in_points else (1.0, 3, f"in {metric}")
    if lost > std_error:
        end = f"so {factor * lost:.{places}f} were optimism."
    elif lost < -std_error:
        end = "more than the search promised."
    else:
        end = "the same within one standard error."
    return (
        f"The search promised {factor * promised:+.{places}f} {unit} over the baseline for the best of "
        f"{n_tried} plans, on its own split; the confirmation gave {factor * confirmed:+.{places}f}, {end}"
    )


def _sentence(seen: Look, *, metric: str, length: str, in_points: bool) -> str:
    """One sentence for people; signed numbers favour the best plan where they are positive."""
    assert seen.interval is not None and seen.interval_90 is not None
    interval = seen.interval
    if seen.label == "equivalent":  # the interval that proves it
        low, high = seen.interval_90
        interval = replace(interval, mean=min(max(interval.mean, low), high), low=low, high=high, level=0.90)
    n_seeds = f"{seen.n_seeds} of at most {seen.planned_seeds}"
    where = f"{length} on {n_seeds if seen.n_seeds < seen.planned_seeds else seen.n_seeds} seeds"
    factor = 100.0 if in_points else 1.0
    unit = f"points of {metric}" if in_points else f"in {metric}"
    mean, low, high = (factor * value for value in (interval.mean, interval.low, interval.high))
    edge = factor * seen.margin
    places = _decimals((low, high, edge), least=1 if in_points else 3)
    level = f"{interval.level:.0%}".replace("%", " %")
    if seen.label in ("better", "worse"):
        # A worse plan is worse by a positive number.
        mean, low, high = (mean, low, high) if seen.label == "better" else (-mean, -high, -low)
        numbers = f"{mean:.{places}f} {unit} ({level} interval {low:.{places}f} to {high:.{places}f})"
        return f"The best plan is {seen.label} than the baseline by {numbers}, confirmed {where}."
    sign = "" if in_points else ", plus in favour of the best plan"
    # Adding 0.0 turns -0.0 into 0.0.
    mean, low, high = (round(value, places) + 0.0 for value in (mean, low, high))
    bounds = f"{level} interval {low:+.{places}f} to {high:+.{places}f}{sign}"
    numbers = f"{mean:+.{places}f} {unit} ({bounds}) {where}"
    within = f"the margin of {edge:.{places}f}{' points' if in_points else ''}"
    if seen.label == "equivalent":
        return f"The best plan is equivalent to the baseline: {numbers}, which is within {within}."
    is_futile = seen.reason == "futile"
    more = "more confirm examples, not seeds," if is_futile else "more seeds or confirm examples"
    return (
        f"The best plan cannot be told apart from the baseline: {numbers}; neither a difference nor "
        f"equivalence within {within} is proven, and {more} would narrow the interval."
    )


def _decimals(values: tuple[float, ...], *, least: int) -> int:
    """Decimals, `least` to 6, with which no value but 0 reads as 0."""
    enough = (n for n in range(least, 6) if all(value == 0 or round(value, n) != 0 for value in values))
    return next(enough, 6)
