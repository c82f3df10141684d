"""Whether any confirmed plan is better than guesses, such as always giving the most frequent label."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

from autopeft.extension import chance_of_guesses, metric_facts
from autopeft.pipeline.prepare import Prepared
from autopeft.records import Outcome

log = logging.getLogger(__name__)


def beside_chance(prepared: Prepared, outcome: Outcome) -> Outcome:
    """The outcome, with a first sentence and a warning where nothing was surely learned."""
    chance, confirmations = chance_of(prepared), outcome.confirmations
    if chance is None or not confirmations or any(each.is_surely_above(chance) for each in confirmations):
        return outcome
    best = max(each.metric_mean for each in confirmations)
    reached, guesses = f"{best:.3f}", f"guesses have {chance:g}"
    if prepared.task.is_share:
        reached = f"{100 * best:.1f} %"
        frequent = f"always giving the most frequent label has {100 * chance:.1f} %"
        guesses = frequent if chance else "no share is below 0 %"
    name = metric_facts(prepared.task).words
    sentence = (
        f"Nothing was learned for certain: the best confirmed {name} is {reached}, and {guesses}; check "
        "--label-column, train longer (--epochs or --max-steps), or hold out more rows."
    )
    log.warning("%s", sentence)
    return replace(outcome, sentences=(sentence, *outcome.sentences))


def chance_of(prepared: Prepared) -> float | None:
    """The metric of always giving the most frequent label of the confirm split, or of guesses.

    The first is for metrics that are a mean over examples that are right or wrong, the second for those that
    know it, such as correlations. Other shares have 0 at least: the F1 of entities where none is found. None
    for the rest.
    """
    labels = prepared.bench.splits["confirm"].labels
    is_hit_rate = prepared.task.is_share and prepared.task.score_span == 1
    if not is_hit_rate or not isinstance(labels[0], int | str):
        chance = chance_of_guesses(prepared.task)
        return 0.0 if chance is None and prepared.task.is_share else chance
    (_, n_most), *_ = Counter(labels).most_common(1)
    return n_most / len(labels)
