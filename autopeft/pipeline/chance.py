"""Whether any confirmed plan is better than always giving the most frequent label."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

from autopeft.pipeline.prepare import Prepared
from autopeft.records import Confirmation, Outcome

_SURE = 1.96  # standard errors: the 95 % interval

log = logging.getLogger(__name__)


def beside_chance(prepared: Prepared, outcome: Outcome) -> Outcome:
    """The outcome, with a first sentence and a warning where nothing was surely learned."""
    sentence = chance_sentence(prepared, outcome.confirmations)
    if not sentence:
        return outcome
    log.warning("%s", sentence)
    return replace(outcome, sentences=(sentence, *outcome.sentences))


def chance_sentence(prepared: Prepared, confirmations: tuple[Confirmation, ...]) -> str:
    """That no confirmed plan is surely better than the most frequent label; empty where one is.

    Of metrics that are no mean over examples that are right or wrong, the share of a label says nothing: it
    is empty for them.
    """
    labels = prepared.bench.splits["confirm"].labels
    is_hit_rate = prepared.task.is_share and prepared.task.score_span == 1  # each example is right or wrong
    if not is_hit_rate or not confirmations or not isinstance(labels[0], int | str):
        return ""
    (_, n_most), *_ = Counter(labels).most_common(1)
    chance = n_most / len(labels)
    if any(each.metric_mean - _SURE * each.metric_std_error > chance for each in confirmations):
        return ""
    best = max(each.metric_mean for each in confirmations)
    return (
        f"Nothing was learned for certain: the best confirmed {prepared.task.metric} is {100 * best:.1f} %, "
        f"and always giving the most frequent label has {100 * chance:.1f} %; check --label-column, train "
        "longer (--epochs or --max-steps), or hold out more rows."
    )
