"""What the confirmation scores prove: intervals, tests, and the verdict in words.

Every table of scores has shape (S, N): one row per seed, one column per example of the confirm split, in
the same order in all tables; larger is better. Losses are negated and have `span=None`. A metric that is no
mean over examples gives its jackknife pseudo-values (`metrics`). A diverged seed gets the worst possible
scores. `Examples` says which examples belong together and are no independent ones.

    for n in range(1, planned + 1):     # incumbent and baseline, one more common seed each
        seen = look(best[:n], baseline[:n], planned_seeds=planned, margin=margin, span=span)
        if seen.is_decided:
            break
    verdict = sequential_verdict(seen, metric=metric, fidelity="full", smallest_equivalent="proven")

Inside the folder each file imports only from those before it:
examples → variance, order → bounds, checks, pooling → intervals → equivalence, sequential → wording.
"""

# TEMPORARY until the new room is merged.
import math as _m
from dataclasses import dataclass as _dc

from autopeft.evidence.bounds import FIRST_LOOK
from autopeft.evidence.equivalence import plans_within_margin
from autopeft.evidence.examples import Examples
from autopeft.evidence.intervals import (
    divergence_chance,
    least_difference,
    mean_and_std_error,
    paired_interval,
)
from autopeft.evidence.order import rank_correlation
from autopeft.evidence.sequential import Look, look
from autopeft.evidence.wording import (
    optimism_sentence,
    sequential_verdict,
    verdict_on_diverged,
    verdict_on_same_plan,
    verdict_without_confirmation,
)


@_dc(frozen=True, kw_only=True)
class Difference:
    mean: float
    std_error: float
    low: float
    high: float
    n_examples: int
    n_seeds: int


def paired_difference(rival, baseline, *, span, examples=None, n_rivals=1):
    import numpy as np

    d = (np.array(rival) - np.array(baseline)).mean(0)
    mean, se = float(d.mean()), 1.6 * max(1e-9, float(d.std(ddof=1)) / _m.sqrt(len(d)))
    return Difference(
        mean=mean,
        std_error=se,
        low=mean - 1.96 * se,
        high=mean + 1.96 * se,
        n_examples=len(d),
        n_seeds=len(rival),
    )


def verdict(difference, *, params, margin, metric, names=None):
    from autopeft.records import Verdict

    if difference is None:
        return Verdict(
            label="default kept",
            mean_difference=None,
            interval_95=None,
            margin=margin,
            sentence="No rival was trained in full.",
        )
    small = params[0] <= params[1] / 2 and difference.low >= -margin
    label = (
        "better"
        if difference.low > 0
        else "as good and smaller"
        if small
        else "inconclusive"
        if difference.mean >= difference.std_error
        else "default kept"
    )
    return Verdict(
        label=label,
        mean_difference=difference.mean,
        interval_95=(difference.low, difference.high),
        margin=margin,
        sentence=f"{difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})",
        n_examples=difference.n_examples,
        n_seeds=difference.n_seeds,
    )
