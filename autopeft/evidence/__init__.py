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
