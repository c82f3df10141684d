"""Decides the verdict on a challenger and its baseline: a label and a sentence."""

from __future__ import annotations

from autopeft.statistics.intervals import Difference
from autopeft.types import MetricFacts, Verdict

KEPT = "default kept"  # the only label with which the baseline is returned
_SMALLER = 0.5  # share of the baseline's parameters, at most, that counts as smaller; heuristic
_LEAD = 0.5  # standard errors from which a challenger is returned (research/2026-11-29-verdict.md)
_ROUNDING = 1e-6  # a number below this share of the largest one counts as 0; heuristic
_SENTENCES = {
    "better": "{challenger} {scores} than {baseline} on {rows} {interval}.",
    "as good and smaller": "{challenger} has {share} of the parameters of {baseline} and {scores} on {rows} "
    "{interval}.",
    "inconclusive": "{challenger} {scores} than {baseline} on {rows} {interval}, which may be chance.",
    KEPT: "{baseline} is kept, since {challenger} is {how}: it {scores} on {rows} {interval}.",
}
_ALONE = "{baseline} is returned without a comparison: no other plan was trained in full."


def verdict(
    difference: Difference | None,
    *,
    names: tuple[str, str],
    params: tuple[int, int],
    margin: float,
    metric: MetricFacts,
) -> Verdict:
    """Label the difference between a challenger and its baseline, and describe it in a sentence.

    The label is the first that fits:

    1. `better`: the 95 % interval is above 0.
    2. `as good and smaller`: at most half of the parameters, and the interval does not reach below -margin.
    3. `inconclusive`: ahead by half a standard error or more. The challenger is returned all the same.
    4. `default kept`: the baseline is returned.

    `names` and `params`, the numbers of trainable parameters, are those of the challenger and the baseline.
    `difference` is None if only the baseline was trained in full. `margin`, >= 0 in units of the scores, is
    the largest difference that does not matter.
    """
    challenger, baseline = names
    if difference is None:
        sentence = _started(_ALONE.format(baseline=baseline))
        return Verdict(label=KEPT, mean_difference=None, interval_95=None, margin=margin, sentence=sentence)
    is_smaller = params[0] <= _SMALLER * params[1]
    label = KEPT
    if difference.low > 0:
        label = "better"
    elif is_smaller and difference.low >= -margin:
        label = "as good and smaller"
    elif difference.mean >= _LEAD * difference.std_error:
        label = "inconclusive"
    scores, interval = _in_words(difference, metric)
    rows = [f"{difference.n_examples:,} confirm rows"] if difference.n_examples > 1 else []
    rows += [f"{difference.n_seeds} seeds"] if difference.n_seeds > 1 else []
    sentence = _SENTENCES[label].format(
        challenger=challenger,
        baseline=baseline,
        scores=scores,
        how="worse" if difference.high < 0 else "not clearly better",
        interval=interval,
        rows=" and ".join(rows),
        share=f"{100 * params[0] / params[1]:.0f} %" if is_smaller and params[1] else "",
    )
    return Verdict(
        label=label,
        mean_difference=difference.mean,
        interval_95=(difference.low, difference.high),
        margin=margin,
        sentence=_started(sentence),
        n_examples=difference.n_examples,
        n_seeds=difference.n_seeds,
    )


def _started(sentence: str) -> str:
    """Capitalize the sentence; names of plans may begin with a small letter."""
    return sentence[0].upper() + sentence[1:]


def _in_words(difference: Difference, metric: MetricFacts) -> tuple[str, str]:
    """Describe the challenger's score next to the baseline's, and the interval, in the metric's direction."""
    ends = [difference.mean, difference.low, difference.high]
    if not metric.greater_is_better:
        ends = [-difference.mean, -difference.high, -difference.low]
    most = 1.0 if metric.is_share else float("inf")  # few rows of an F1 can give an interval beyond it
    factor, min_places, unit = (100.0, 1, " points") if metric.is_share else (1.0, 3, "")
    ends = [factor * min(max(end, -most), most) for end in ends]
    largest = max(map(abs, ends))
    shown = [end for end in ends if abs(end) > _ROUNDING * largest]
    places = next((n for n in range(min_places, 12) if all(round(end, n) for end in shown)), 12)
    mean, low, high = (round(end, places) + 0.0 for end in ends)  # adding 0.0 turns -0.0 into 0.0
    of_what = "" if metric.greater_is_better else f" in {metric.words}"
    direction = "lower" if mean < 0 else "higher"
    low_to_high = f"{low:+.{places}f} to {high:+.{places}f}{of_what}"
    if of_what and low * high >= 0:  # as the difference is named, without signs
        near, far = sorted([abs(low), abs(high)])
        low_to_high = f"{near:.{places}f} to {far:.{places}f} {direction}"
    population = "new rows and seeds" if difference.n_examples > 1 else "new seeds"
    interval = f"(95 % interval for {population}: {low_to_high})"
    amount = f"{abs(mean):.{places}f}{unit}"
    if metric.greater_is_better:
        return f"scores {amount} {direction}", interval
    return f"is {amount} {direction} in {metric.words}", interval
