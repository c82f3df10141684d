"""`--max-cost`: how search and confirmation divide what a run may cost, where the user leaves it open."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace

from autopeft.engine import LEAST_AT_RUNG, Schedule, usual_schedule
from autopeft.pipeline.prepare import Prepared
from autopeft.pipeline.problem import schedule_of
from autopeft.records import Decision, RunSpec, with_setting

_LEAST_COST = 4.0  # R by default at least: what a sweep over four learning rates costs that people do anyway
_MOST_COST = 8.0  # R by default at most, where runs are so short that the rungs are most of a full one
# In runs of fewer steps, of how many R the confirmation has its share.
_SHORT_RUN_STEPS, _SHORT_RUN_COST = 300, 7.0
_CONFIRM_SHARE = 0.55  # of the cost at most, for two plans and the head alone; chosen by hand
_CONFIRMATIONS = (("full", 3), ("half", 2))  # in this order, with the fewest seeds; chosen by hand
_FIRST_SHARE = 0.5  # of what the search has, for its first rung; chosen by hand
_KEPT_TRIALS = 10  # that are made though the first rung takes more than its share by them
_PAID_TRIALS = 9  # by the default limit: two baselines at two rates, the head, and four other plans
_NEEDED_TRIALS = 6  # of these: baselines and head, which are measured whatever they cost, and one other
_EVAL_SHARE = 0.05  # of a full run, that the evaluation of a split may cost; chosen by hand
_LEAST_EXAMPLES = 128  # to evaluate, where the task names no number; chosen by hand

log = logging.getLogger(__name__)


def within_cost(prepared: Prepared, given: frozenset[str]) -> Prepared:
    """The run with cost, confirmation, trials and evaluated examples chosen and recorded where they are open.

    `given` are the dotted names of the user's settings. A number of trials that the user gave is not limited
    by a cost that they did not give.
    """
    decisions = list(prepared.decisions)
    for decide in (_examples, _confirmation, _cost, _trials):
        for decision, spec in decide(prepared, given):
            prepared = replace(prepared, spec=spec)
            decisions.append(decision)
    return replace(prepared, decisions=tuple(decisions))


Decided = Iterator[tuple[Decision, RunSpec]]


def _examples(prepared: Prepared, given: frozenset[str]) -> Decided:
    """As many evaluated examples as a twentieth of a full run pays."""
    spec, schedule = prepared.spec, schedule_of(prepared)
    most = int(_EVAL_SHARE * schedule.full_steps * schedule.batch_size / schedule.prices.example)
    n_examples = max(most, prepared.task.defaults.eval_examples or _LEAST_EXAMPLES)
    largest = max(schedule.n_search, schedule.n_confirm, schedule.n_test)
    if "data.max_eval_examples" not in given and spec.data.max_eval_examples is None and n_examples < largest:
        reasons = ("more would cost over a twentieth of a full run", "fewer hardly tell plans apart")
        rule = f"of {largest:,} in the largest split; {reasons[n_examples > most]}"
        yield _decided(spec, "data.max_eval_examples", n_examples, rule)


def _confirmation(prepared: Prepared, given: frozenset[str]) -> Decided:
    """Full length where three seeds of two plans can be paid, else half length."""
    spec, usual = prepared.spec, prepared.spec.confirm.seeds
    if spec.confirm.fidelity != "auto":
        return
    for fidelity, fewest in _CONFIRMATIONS:
        least = usual if "confirm.seeds" in given else fewest
        tried = with_setting(spec, "confirm.fidelity", fidelity)
        schedule = schedule_of(replace(prepared, spec=tried))
        room, tried_seeds = _confirm_room(prepared, schedule), range(usual, least, -1)
        n_seeds = next((n for n in tried_seeds if schedule.confirm_cost(n_seeds=n) <= room), least)
        cost = schedule.confirm_cost(n_seeds=n_seeds)
        if cost <= room:
            break
    limit = spec.search.max_cost
    of = "" if limit is None or cost > limit else f" of {limit:g}"
    beyond = f", more than the {limit:g} R of --max-cost" if limit is not None and cost > limit else ""
    rule = f"{n_seeds} seeds of two plans take {cost:.1f}{of} R{beyond}"
    yield _decided(spec, "confirm.fidelity", fidelity, rule)
    if n_seeds != usual:
        spec = with_setting(spec, "confirm.fidelity", fidelity)
        unpaid = "the usual cost pays no more, --max-cost or --confirm-seeds does"
        unpaid = unpaid if limit is None else f"{100 * _CONFIRM_SHARE:.0f} % of --max-cost pay no more"
        yield _decided(spec, "confirm.seeds", n_seeds, f"{usual} by default; {unpaid}")


def _confirm_room(prepared: Prepared, schedule: Schedule) -> float:
    """The cost in R of the longest confirmation; by the default limit the search keeps what it needs."""
    limit = prepared.spec.search.max_cost
    if limit is not None:
        return _CONFIRM_SHARE * limit
    most = _CONFIRM_SHARE * (_SHORT_RUN_COST if prepared.full_steps < _SHORT_RUN_STEPS else _LEAST_COST)
    return min(most, _MOST_COST - _least(schedule, n_first=_PAID_TRIALS))


def _cost(prepared: Prepared, given: frozenset[str]) -> Decided:
    """What nine proposals and their confirmation cost, between two limits; none for given trials.

    More only where a verdict takes more: full runs are short, or the user asked for a long confirmation.
    """
    spec = prepared.spec
    if spec.search.max_cost is not None or "search.trials" in given:
        return
    total = _within_limits(least_cost(prepared, n_first=_PAID_TRIALS))
    rule = "in R, search and confirmation together; R is one full run of the baseline"
    if confirm_cost(prepared) > _CONFIRM_SHARE * total and "confirm.fidelity" in given:
        total = confirm_cost(prepared) + (1 - _CONFIRM_SHARE) * total
    needed = _needed_cost(prepared)
    if needed > total:
        rule = f"in R; {_MOST_COST:g} at most by default, raised to what a verdict needs: full runs are short"
    yield _decided(spec, "search.max_cost", _rounded(max(total, needed)), rule)


def _trials(prepared: Prepared, given: frozenset[str]) -> Decided:
    """As many proposals as half of the search's part pays, or up to ten, if it pays the rungs above too."""
    spec, usual, limit = prepared.spec, prepared.spec.search.trials, prepared.spec.search.max_cost
    if "search.trials" in given or limit is None:
        return
    n_paid = int(_FIRST_SHARE * (limit - confirm_cost(prepared)) / schedule_of(prepared).rung_cost(0))
    tried = range(min(usual, max(n_paid, _KEPT_TRIALS)), _NEEDED_TRIALS, -1)
    n_trials = next((n for n in tried if least_cost(prepared, n_first=n) <= limit), _NEEDED_TRIALS)
    if n_trials < usual:
        yield _decided(spec, "search.trials", n_trials, f"{usual} by default; what --max-cost pays")


def confirm_cost(prepared: Prepared) -> float:
    """Cost in R that the confirmation of two plans and the head alone takes; 0 without a confirmation."""
    confirm = prepared.spec.confirm
    return 0.0 if confirm.fidelity == "none" else schedule_of(prepared).confirm_cost(n_seeds=confirm.seeds)


def least_cost(prepared: Prepared, *, n_first: int) -> float:
    """Cost in R of so many proposals, the rungs of a few of them, and the confirmation of two plans."""
    return _least(schedule_of(prepared), n_first=n_first) + confirm_cost(prepared)


def _needed_cost(prepared: Prepared) -> float:
    """Cost in R of a verdict: the fewest proposals, the fewest plans at each rung, and the confirmation."""
    schedule, n_first = schedule_of(prepared), min(prepared.spec.search.trials, _NEEDED_TRIALS)
    above = math.fsum(schedule.rung_cost(index) for index in range(1, schedule.last + 1))
    return n_first * schedule.rung_cost(0) + LEAST_AT_RUNG * above + confirm_cost(prepared)


def _least(schedule: Schedule, *, n_first: int) -> float:
    return n_first * schedule.rung_cost(0) + schedule.least_cost_above(0, n_plans=n_first)


def warn_of_cost(prepared: Prepared) -> None:
    """Warn where `--max-cost` is less than a verdict needs, which is measured whatever it costs."""
    spec = prepared.spec
    least = _needed_cost(prepared)
    if spec.search.max_cost is not None and least > spec.search.max_cost:
        log.warning(
            "--max-cost is %g R, but a verdict needs about %.1f R, which are spent; raise it, or ask for "
            "less by --confirm none, fewer --max-eval-examples or longer full runs.",
            spec.search.max_cost,
            least,
        )


def _within_limits(cost: float) -> float:
    return min(max(_LEAST_COST, _rounded(cost)), _MOST_COST)


def _rounded(cost: float) -> float:
    """The cost to the next tenth above."""
    return math.ceil(10 * cost) / 10


def usual_cost(full_steps: int) -> float:
    """The default of `--max-cost` in R, where evaluating a split takes a twentieth of a full run.

    Example:
        >>> [usual_cost(steps) for steps in (71, 200, 300, 600)]
        [7.9, 5.6, 4.8, 4.0]
    """
    schedule = usual_schedule(full_steps, eval_share=_EVAL_SHARE)
    _, n_seeds = _CONFIRMATIONS[-1]
    return _within_limits(_least(schedule, n_first=_PAID_TRIALS) + schedule.confirm_cost(n_seeds=n_seeds))


def _decided(spec: RunSpec, name: str, value: str | float, rule: str) -> tuple[Decision, RunSpec]:
    shown = f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else value
    return Decision(setting=name, value=shown, rule=rule), with_setting(spec, name, value)
