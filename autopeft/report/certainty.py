"""How sure the answer is, in sentences."""

from __future__ import annotations

import math

from autopeft.records import Status, in_words_of
from autopeft.report.measured import (
    has_failed,
    is_alone,
    leads_among,
    n_rivals,
    record_of,
    trial_runs,
    unfinished,
)
from autopeft.report.terms import Terms, capital
from autopeft.report.words import count, difference, metric


def how_sure(terms: Terms) -> tuple[str, ...]:
    """Whether the difference to the default is settled, and what else the confirmation tells."""
    sentences = (_settled, _corrected, _cut, _failed_runs, _tested, _seeds)
    return tuple(filter(None, (sentence(terms) for sentence in sentences)))


def _settled(terms: Terms) -> str:
    """Whether the difference to the default is settled, in one sentence."""
    verdict = terms.result.verdict
    if verdict.label == "none":
        confirming = "confirm='half'" if terms.result.spec.is_in_memory else "--confirm half"
        trials = trial_runs(terms.result)
        trials = "trial runs on one seed" if "full" in trials else trials
        return f"Not at all: {trials} prove nothing. The same search with {confirming} gives a verdict."
    if has_failed(terms.result, terms.result.best):
        name = terms.full(terms.result.best)
        return f"Not at all: all confirming runs of {name} diverged; a lower learning rate may mend that."
    if verdict.mean_difference is None:
        is_default = has_failed(terms.result, terms.result.baseline)
        failed = "the default" if is_default else "the default's rival"
        return f"Not compared: no confirming run of {failed} finished."
    if verdict.interval_95 is None:
        return _how_chosen(terms)
    if verdict.label == "better" and has_failed(terms.result, terms.result.baseline):
        return "Settled in so far as no confirming run of the default finished."
    low, high = verdict.interval_95
    seeds = f", {verdict.n_seeds} seeds" if verdict.n_seeds else ""
    half = ", runs of half length" if verdict.fidelity == "half" else ""
    is_open = low <= 0 <= high and not {verdict.label, verdict.stopped_by} & {
        "better",
        "equivalent",
        "worse",
    }
    name = terms.full(terms.result.incumbent)
    return (
        f"{'Not settled' if is_open else 'Settled'}: {name} {'may be' if is_open else 'is'} "
        f"{_span(terms, low, high)} than the default (95 % interval{seeds}{half})."
    )


def _how_chosen(terms: Terms) -> str:
    """How a default came first that nothing was compared with."""
    result, trials = terms.result, trial_runs(terms.result)
    tried = {run.plan for run in result.measurements if run.fidelity.split == "search"}
    if len(tried) == 1:
        return "It is the only plan that was tried."
    if is_alone(result):
        return f"Chosen among learning rates of the default alone, by {trials}."
    if not n_rivals(result):
        more = in_words_of(result.spec, "A larger --trials, or more time, tries other plans.")
        return f"Chosen among {terms.defaults}, by {trials}. {more}"
    n_full = _n_full_trials(terms)
    how = f"{trials} and {n_full} full ones of the default" if n_full else trials
    among = leads_among(result)
    others = f"no other plan {among}" if among else "no other plan"
    return f"Chosen by {how}: {others} did clearly better there."


def _corrected(terms: Terms) -> str:
    """That the difference is not that of the table, where the decimals shown differ."""
    result, verdict = terms.result, terms.result.verdict
    first, default = terms.record(result.incumbent), terms.record(result.baseline)
    if verdict.plain_difference is None or verdict.mean_difference is None:
        return ""
    if first is None or default is None:
        return ""
    plain = (first.metric_mean - default.metric_mean) * terms.sign
    shown = [difference(value, terms.is_share) for value in (verdict.mean_difference, plain + 0.0)]
    # Where nothing was corrected, rounding errors of the mean may still move its last decimal.
    if shown[0] == shown[1] or math.isclose(plain, verdict.mean_difference, rel_tol=1e-6):
        return ""
    gap = difference(abs(plain), terms.is_share, signed=False)
    side = "as good as" if terms.is_nothing(plain) else f"{gap} {'ahead of' if plain > 0 else 'behind'}"
    return (
        "The difference is corrected for looking after every seed; by the means in the table "
        f"{terms.full(result.incumbent)} is {side} the default."
    )


def _n_full_trials(terms: Terms) -> int:
    """How many plans the search trained in full beside the confirmation."""
    full = terms.result.setting.full_run_steps
    searched = (m.fidelity for m in terms.result.measurements if m.fidelity.split == "search")
    is_longest_rung = full in terms.result.proxy.rung_steps
    return 0 if is_longest_rung else sum(fidelity.train_steps == full for fidelity in searched)


def _span(terms: Terms, low: float, high: float) -> str:
    """An interval of differences in words: `2.8 points worse to 1.4 points better`."""
    if min(low, high) >= 0 or max(low, high) <= 0:
        near, far = sorted((abs(low), abs(high)))
        less = difference(near, terms.is_share, signed=False).removesuffix(" points")
        more = difference(far, terms.is_share, signed=False)
        return f"{less} to {more} {'better' if high > 0 else 'worse'}"
    worse, better = (difference(abs(v), terms.is_share, signed=False) for v in (low, high))
    return f"{worse} worse to {better} better"


def _cut(terms: Terms) -> str:
    """That time or cost ended the search before its last rung."""
    steps = unfinished(terms.result)
    if not steps:
        return ""
    done, planned = (count(number) for number in steps)
    return f"Time or cost ended the search after {done} steps a plan; runs of {planned} would rank better."


def _failed_runs(terms: Terms) -> str:
    """That runs of the default or of the best plan failed, which may be a matter of the learning rate."""
    result, said = terms.result, list[str]()
    name_of_metric = result.setting.metric_words
    names = {result.baseline: "The default", result.best: capital(terms.full(result.best))}
    half = metric(terms.best_run / 2, terms.is_share)
    for plan, name in names.items():
        failed, record = terms.failed(plan), terms.record(plan)
        if failed and record is not None and result.best != result.baseline:
            scores = ", ".join(metric(value, terms.is_share) for value in record.metrics)
            said.append(
                f"{name} failed in {failed}, too (by the same bar: {scores})."
                if said
                else f"{name} failed in {failed} ({name_of_metric} {scores}; below {half}, half of the "
                "best run of all), so its mean says little; a lower learning rate may mend it."
            )
    return " ".join(said)


def _tested(terms: Terms) -> str:
    """The same difference on the test split, which decides nothing, where no verdict was reached."""
    best, default = (record_of(terms.result.test, p) for p in (terms.result.best, terms.result.baseline))
    if terms.result.verdict.label != "inconclusive" or best is None or default is None or best == default:
        return ""
    gain = (best.metric_mean - default.metric_mean) * terms.sign
    gap = difference(abs(gain), terms.is_share, signed=False)
    name = capital(terms.full(terms.result.best))
    if terms.is_nothing(gain):
        return f"{name} scored the same as the default on the test split."
    direction = terms.lower if gain < 0 else terms.higher
    return f"{name} scored {gap} {direction} than the default on the test split."


def _seeds(terms: Terms) -> str:
    """The worst seed, and the runs that failed."""
    record = terms.record(terms.result.best)
    if record is None:
        return ""
    worst = (min if terms.sign > 0 else max)(record.metrics, default=record.metric_mean)
    runs = [
        run
        for run in terms.result.measurements
        if run.plan == record.plan and run.fidelity.split == record.split
    ]
    failed = sum(run.status is not Status.COMPLETE for run in runs)
    n_seeds = len(record.seeds)
    of = f"Worst of its {n_seeds} runs" if n_seeds > 1 else "One run"
    fate = f"; {failed} diverged or broke off" if failed else ""
    where = f"on the {record.split} split"
    return f"{of} {where}: {terms.result.setting.metric_words} {metric(worst, terms.is_share)}{fate}."
