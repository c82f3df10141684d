"""What the confirmation scores prove: looks, intervals, labels and the verdict in words.

Every table of scores has shape (S, N): one row per seed, one column per example of the confirm
split, both in a common order, larger is better. Losses are negated and have `span=None`; a
diverged seed's row comes from `with_diverged`; a metric that is no mean over examples from `pseudo_values`.

    for n in range(1, planned + 1):     # incumbent and baseline, one more common seed each
        seen = look(best[:n], baseline[:n], planned_seeds=planned, margin=margin, span=span)
        if seen.is_decided:
            break
    verdict = sequential_verdict(seen, metric="accuracy", fidelity="full", smallest_equivalent="proven")

Inside the folder each file imports only from those before it:
components, optimism, order → intervals, tables, unbiased → equivalence, sequential → wording.
"""

from autopeft.evidence.components import Table
from autopeft.evidence.equivalence import EquivalenceSet, Standing, equivalence_set
from autopeft.evidence.intervals import Interval, label, mean_and_std_error, paired_interval, within_margin
from autopeft.evidence.optimism import Optimism, optimism
from autopeft.evidence.order import rank_correlation
from autopeft.evidence.sequential import MAX_SEEDS, Look, look
from autopeft.evidence.tables import divergence_chance, pseudo_values, with_diverged
from autopeft.evidence.wording import (
    sequential_verdict,
    verdict,
    verdict_on_same_plan,
    verdict_without_confirmation,
)

__all__ = [
    "MAX_SEEDS",
    "EquivalenceSet",
    "Interval",
    "Look",
    "Optimism",
    "Standing",
    "Table",
    "divergence_chance",
    "equivalence_set",
    "label",
    "look",
    "mean_and_std_error",
    "optimism",
    "paired_interval",
    "pseudo_values",
    "rank_correlation",
    "sequential_verdict",
    "verdict",
    "verdict_on_same_plan",
    "verdict_without_confirmation",
    "with_diverged",
    "within_margin",
]
