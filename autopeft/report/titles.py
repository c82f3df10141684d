"""The recommendation in one sentence, and the mark above it."""

from __future__ import annotations

import math

from autopeft.records import SearchResult
from autopeft.report.measured import (
    has_failed,
    is_alone,
    is_by_chance,
    leads_among,
    longest_trials,
    n_rivals,
    trial_runs,
)
from autopeft.report.named_plans import head_plan
from autopeft.report.terms import NO_ADAPTERS, Terms, capital
from autopeft.report.words import difference

# Label of a verdict, or what overrules it -> words and tone of the mark above the headline.
_MARKS = {
    "better": ("better than the default", "better"),
    "equivalent": ("as good as the default", "calm"),
    "worse": ("default kept", "calm"),
    "inconclusive": ("not settled", "inconclusive"),
    "default kept": ("default kept", "calm"),
    "none": ("not confirmed", "inconclusive"),
    "nothing learned": ("nothing learned", "inconclusive"),
    "nothing usable": ("nothing usable", "inconclusive"),
    "nothing recommended": ("nothing recommended", "inconclusive"),
}
# Mark -> heading of the plan below it, where that is not "What to use".
USES = {
    _MARKS["none"][0]: "What leads so far",
    _MARKS["nothing usable"][0]: "What was tried",
    _MARKS["nothing recommended"][0]: "What was chosen",
}
_CLEAR = 2.0  # standard errors by which the head alone has to be ahead; chosen by hand


def answer(terms: Terms) -> tuple[str, str, str]:
    """Mark, tone and title."""
    result = terms.result
    if result.verdict.label == "none":
        return *_MARKS["none"], _unconfirmed(terms)
    if has_failed(result, result.best):
        name = terms.full(result.best)
        return *_MARKS["nothing usable"], f"No confirming run of {name} finished: nothing usable was trained."
    if is_by_chance(result):
        return *_MARKS["nothing learned"], _by_chance(result)
    if ahead := _head_ahead(terms):
        return *_MARKS["nothing recommended"], ahead
    title = _of_verdict(terms)
    if terms.proven_head:  # then adapting is proven to bring nothing that matters
        title = f"{title.removesuffix('.')}; {terms.proven_head}."
    return *_MARKS[result.verdict.label], title


def _by_chance(result: SearchResult) -> str:
    """That nothing was learned: shares have a most frequent label, correlations have guesses."""
    guess = "guessing" if result.setting.chance == 0 else "always giving the most frequent label"
    return f"Nothing was learned for certain: {guess} may be as good."


def _unconfirmed(terms: Terms) -> str:
    """Which plan leads where nothing was confirmed, and by what."""
    result, best = terms.result, terms.full(terms.result.best)
    among, trials = leads_among(result), trial_runs(result)
    how = "was put first by"
    if among is not None:
        how = f"did best of the plans {among} in" if among else "did best in"
    elif _has_best_metric(terms):
        how = f"had the best {result.setting.metric_words} in"
    the = "" if "full" in trials else "the "
    return f"No verdict yet: {best} {how} {the}{trials}, and nothing was confirmed."


def _has_best_metric(terms: Terms) -> bool:
    """Whether the best plan has the best metric of the longest rung."""
    _, runs = longest_trials(terms.result)
    metrics = {run.plan: terms.sign * run.metric for run in runs if run.metric is not None}
    return bool(metrics) and metrics.get(terms.result.best) == max(metrics.values())


def _head_ahead(terms: Terms) -> str:
    """That the head alone, or the untrained model, is clearly ahead of the plan handed over; else nothing."""
    result, plan = terms.result, head_plan(terms.result)
    head, ours = (None if p is None else terms.record(p) for p in (plan, result.best))
    if plan is None or head is None or ours is None or not result.best.adapters:
        return ""
    gain = (head.metric_mean - ours.metric_mean) * terms.sign
    if gain <= _CLEAR * math.hypot(head.metric_std_error, ours.metric_std_error) or terms.is_nothing(gain):
        return ""
    gap = difference(gain, terms.is_share, signed=False)
    name, best = terms.full(plan), terms.full(result.best)
    return f"Nothing is recommended: {name} scored {gap} {terms.higher} than {best}."


def _is_beaten_over_budget(terms: Terms) -> bool:
    """Whether a confirmed plan beyond the budget has a better mean than the plan handed over."""
    result, ours = terms.result, terms.record(terms.result.best)
    most = result.setting.budget.max_trainable_params
    return ours is not None and any(
        record.plan.trainable_params > most and (record.metric_mean - ours.metric_mean) * terms.sign > 0
        for record in result.confirmations
    )


def _of_verdict(terms: Terms) -> str:
    """What to do, by the verdict."""
    result, verdict, share = terms.result, terms.result.verdict, terms.is_share
    best, baseline = terms.full(result.best), terms.full(result.baseline)
    gap = difference(abs(verdict.mean_difference or 0.0), share, signed=False)
    if verdict.label == "default kept":
        if is_alone(result):
            return f"Keep {baseline}: no other plan was tried."
        if not n_rivals(result):
            return f"Keep {baseline}: only {terms.defaults} were tried."
        within = "within the budget" if _is_beaten_over_budget(terms) else "tried"
        return f"Keep {baseline}: no other plan {within} proved better."
    if has_failed(result, result.baseline):
        start = "Use" if verdict.label == "better" else "Try"
        return f"{start} {best}: {baseline} failed in all its confirming runs."
    if verdict.label == "better":
        return f"Use {best}: it beats {baseline} by {gap}."
    fewer = terms.fewer(result.baseline, result.best)
    if verdict.label == "equivalent":
        less = f" and {fewer}" if fewer else ""
        return f"Use {best}: it is as good as {baseline}{less}."
    if verdict.label == "worse":
        return f"Keep {baseline}: {best} scored {gap} {terms.lower}."
    if terms.is_nothing(verdict.mean_difference or 0.0):
        less = f" {fewer} and" if fewer else ""
        return f"{capital(best)}{less} scored the same as {baseline}, which settles nothing."
    if (verdict.mean_difference or 0.0) < 0:
        return f"{capital(best)} is {gap} behind {baseline}, which settles nothing."
    failed, ours = terms.failed(result.baseline), terms.failed(result.best)
    if failed:
        too = f", and {best} in {ours}" if ours else ""
        return f"Try {best}, but nothing is settled: {baseline} failed in {failed}{too}."
    if fewer == NO_ADAPTERS:
        return f"Try {best}, but nothing is settled: it {fewer} and is {gap} ahead of {baseline}."
    if fewer:
        return f"Try {best}, but nothing is settled: it {fewer} than {baseline} and is {gap} ahead."
    return f"Try {best}, but nothing is settled: it is {gap} ahead of {baseline}."
