"""Compares two finished plans: a paired interval of their difference, a label, and a sentence.

Every table of scores has shape (S, N): S seeds, and N rows of a split in the same order in all tables.
Larger is better; losses are negated and have `span=None`. For a metric that is not a mean over rows the
scores are jackknife pseudo-values (`metrics`). `Examples` lists which rows belong together.

    difference = paired_difference(challenger, baseline, span=1.0, n_challengers=2)
    verdict(difference, names=("HiRA", "LoRA"), params=(9_000, 9_000), margin=0.01, metric=accuracy)

Inside the folder each file imports only from those before it: intervals → verdicts.
"""

from autopeft.statistics.intervals import (
    SEED_ROWS,
    Difference,
    Examples,
    least_difference,
    mean_and_std_error,
    paired_difference,
)
from autopeft.statistics.verdicts import KEPT, verdict
