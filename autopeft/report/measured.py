"""What a run measured: the record of a plan, and the examples, rungs, plans and positions of rates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

from autopeft.records import (
    Adapter,
    Confirmation,
    Measurement,
    Plan,
    SearchResult,
    Status,
    rate,
    rate_position,
)
from autopeft.report.words import NOTHING

_EDGE = 0.1  # of a range, to each side; chosen by hand


def record_of(
    records: Sequence[Confirmation], plan: Plan | None, *, name: str | None = None
) -> Confirmation | None:
    """The record called `name`, else the first of an equal plan, since equal plans are confirmed once.

    None where no record fits.
    """
    named = (record for record in records if name is not None and record.name == name)
    return next(chain(named, (record for record in records if record.plan == plan)), None)


def is_untrained(result: SearchResult, plan: Plan) -> bool:
    """Whether a plan is the base model as it is: it has no adapters, and the task no head to train."""
    return not plan.adapters and not result.setting.head_params


def is_by_chance(result: SearchResult) -> bool:
    """Whether no confirmed plan is surely better than always giving the most frequent label."""
    chance, confirmed = result.setting.chance, result.confirmations
    return bool(confirmed) and chance is not None and not any(r.is_surely_above(chance) for r in confirmed)


def smallest_mark(result: SearchResult) -> str:
    """What the smallest plan is called: unproven where it is only a candidate."""
    return "smallest, unproven" if result.verdict.smallest_equivalent == "unproven" else "smallest"


def has_failed(result: SearchResult, plan: Plan) -> bool:
    """Whether no confirming run of a plan finished though there were some: it has no score and no weights."""
    runs = [m.status for m in result.measurements if m.plan == plan and m.fidelity.split == "confirm"]
    return bool(runs) and Status.COMPLETE not in runs


def error_over(result: SearchResult) -> str:
    """What a standard error is over: `2 seeds and the examples`, or `the groups of examples, of one seed`.

    Where the best plan has several seeds, a plan with one was far behind on it.
    """
    confirmed = record_of(result.confirmations, result.best, name="best")
    units = "the groups of examples" if result.setting.splits.confirm_groups else "the examples"
    if confirmed is None or len(confirmed.seeds) < 2:
        return f"{units}, of one seed"
    is_single = any(len(record.seeds) == 1 for record in result.confirmations)
    single = " (a plan far behind on its first seed has only that)" if is_single else ""
    return f"{len(confirmed.seeds)} seeds and {units}{single}"


def examples(result: SearchResult, split: str) -> str:
    """The size of a split: `595`, or `352 of 595` where no more examples were evaluated."""
    size = getattr(result.setting.splits, split)
    seen = n_evaluated(result, split)
    return f"{seen:,} of {size:,}" if 0 < seen < size else f"{size:,}"


def in_groups(result: SearchResult, split: str) -> str:
    """The groups of evaluated examples, which errors count in place of these: ` in 40 groups`, or nothing."""
    n_groups = getattr(result.setting.splits, f"{split}_groups")
    return f" in {n_groups:,} groups" if n_groups else ""


def on_split(result: SearchResult, split: str) -> str:
    """Where a score is from: `the test split`, or `352 of the 595 examples of the test split`."""
    size = getattr(result.setting.splits, split, 0)
    seen = n_evaluated(result, split)
    return (
        f"{seen:,} of the {size:,} examples of the {split} split" if 0 < seen < size else f"the {split} split"
    )


def n_evaluated(result: SearchResult, split: str) -> int:
    """The most examples that one measurement evaluated; 0 where none did."""
    runs = (run.fidelity for run in result.measurements if run.fidelity.split == split)
    return max((fidelity.eval_examples for fidelity in runs), default=0)


def rungs_in_words(result: SearchResult) -> str:
    """The rungs that ran and the plans that each measured: `18 (10 plans), 44 (5) and 75 (4) steps`.

    Where the last one is as long as a full run, `, the last of them full runs,` follows.
    """
    plans: dict[int, set[Plan]] = defaultdict(set)
    for run in result.measurements:
        if run.fidelity.split == "search" and run.fidelity.train_steps in result.proxy.rung_steps:
            plans[run.fidelity.train_steps].add(run.plan)
    if not plans:
        return "no rung"
    (first, n_first), *others = ((steps, len(plans[steps])) for steps in sorted(plans))
    rungs = [
        f"{first:,} ({n_first} plan{'s' * (n_first != 1)})",
        *(f"{steps:,} ({n})" for steps, n in others),
    ]
    is_full = bool(others) and others[-1][0] >= result.setting.full_run_steps
    full = ", the last of them full runs," if is_full else ""
    return f"{', '.join(rungs[:-1])} and {rungs[-1]} steps{full}" if others else f"{rungs[0]} steps"


def trial_runs(result: SearchResult) -> str:
    """What the search trained: `short trial runs`, or that the longest of them were full runs."""
    steps, _ = longest_trials(result)
    is_full = steps >= result.setting.full_run_steps
    return f"trial runs of up to {steps:,} steps, a full run" if is_full else "short trial runs"


def longest_trials(result: SearchResult) -> tuple[int, list[Measurement]]:
    """Steps of the longest rung that ran (0 if none did), and its finished measurements."""
    runs = [m for m in result.measurements if m.fidelity.split == "search" and m.status is Status.COMPLETE]
    steps = max({m.fidelity.train_steps for m in runs} & set(result.proxy.rung_steps), default=0)
    return steps, [m for m in runs if m.fidelity.train_steps == steps]


def leads_among(result: SearchResult) -> str | None:
    """Among which plans the best one has the lowest loss of the longest rung; None where it has not.

    Empty for all plans, else `within the budget` or `with adapters`.
    """
    _, runs = longest_trials(result)
    most = result.setting.budget.max_trainable_params
    affordable = [m for m in runs if m.plan.trainable_params <= most]
    adapted = [m for m in affordable if m.plan.adapters]
    for among, group in (("", runs), ("within the budget", affordable), ("with adapters", adapted)):
        losses = {m.plan: m.loss for m in group if m.loss is not None}
        if losses and losses.get(result.best) == min(losses.values()):
            return among
    return None


def has_late_starters(result: SearchResult) -> bool:
    """Whether plans at a lower learning rate were trained for a long run at once, without a shorter one."""
    lengths: dict[Plan, int] = {}
    for run in result.measurements:
        if run.fidelity.split == "search":
            steps = run.fidelity.train_steps
            lengths[run.plan] = min(lengths.get(run.plan, steps), steps)
    first = min(lengths.values(), default=0)
    retuned = {proposal.plan for proposal in result.proposals if proposal.source == "retuned"}
    return any(lengths.get(plan, first) > first for plan in retuned)


def split_uses(result: SearchResult) -> dict[str, str]:
    """What the splits after the search were used for: `confirm` and `test`."""
    verdict = result.verdict
    scored = "scores, no verdict" if result.confirmations else "not read"
    if verdict.label != "none":
        scored = "the verdict"
    if verdict.mean_difference is not None and verdict.interval_95 is None:
        is_alone = result.smallest == result.best
        alone = "the score of the default; nothing was compared"
        scored = alone if is_alone else "the scores of the default and of a smaller plan"
    untested = "not read" if result.setting.splits.test else "none given"
    return {
        "confirm": scored,
        "test": "read once, at the end" if result.test else untested,
    }


def unfinished(result: SearchResult) -> tuple[int, int] | None:
    """Steps of the last rung that ran and of the last one planned; None where that ran, or none did."""
    runs = {run.fidelity.train_steps for run in result.measurements if run.fidelity.split == "search"}
    done, planned = max(runs, default=0), max(result.proxy.rung_steps, default=0)
    return (done, planned) if 0 < done < planned else None


def n_rivals(result: SearchResult) -> int:
    """How many sets of adapters were tried that are those of no default; the head alone has none."""
    defaults = {p.plan.adapters for p in result.proposals if p.arm.kind == "baseline"}
    return len(_tried(result) - defaults - {result.baseline.adapters, ()})


def is_alone(result: SearchResult) -> bool:
    """Whether no adapters but those of the baseline were tried, and not the head alone either."""
    return not _tried(result) - {result.baseline.adapters}


def _tried(result: SearchResult) -> set[tuple[Adapter, ...]]:
    return {run.plan.adapters for run in result.measurements if run.fidelity.split == "search"}


def position_of(plan: Plan, result: SearchResult) -> float | None:
    """The position of a plan's learning rate; None where the run kept no range for it.

    A plan of the user has none: its scale may be another, and with it the range.
    """
    if any(p.plan == plan and p.arm.kind == "given" for p in result.proposals):
        return None
    bounds = result.setting.learning_rate_ranges.get(plan.lead_method or "")
    return None if bounds is None else rate_position(plan.learning_rate, bounds)


def rate_words(plan: Plan, result: SearchResult) -> str:
    """A plan's learning rate, with its position where it has one; a dash for the untrained model."""
    if is_untrained(result, plan):
        return NOTHING
    position = position_of(plan, result)
    if position is None:
        return rate(plan.learning_rate)
    low, high = map(rate, result.setting.learning_rate_ranges[plan.lead_method or ""])
    return f"{rate(plan.learning_rate)} (position {position:.2f} of {low} … {high})"


def edge_sentence(result: SearchResult) -> str:
    """What to do where the best rate lies in the outer tenth of its method's range; empty elsewhere."""
    position = position_of(result.best, result) if result.best.adapters else None
    if position is None or _EDGE <= position <= 1 - _EDGE:
        return ""
    end, direction = ("low", "lower") if position < _EDGE else ("high", "higher")
    return (
        f"The best learning rate lies at the {end} end of its range: a {direction} one may be better. "
        "Give the method another range in a search space of your own."
    )
