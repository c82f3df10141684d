"""The search, from top to bottom: short runs, full runs of the finalists, the verdict, the test split.

Its steps are generators without I/O: they yield the runs to measure and receive the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import optuna

from autopeft.engine import judge
from autopeft.engine.judge import Finished
from autopeft.engine.problem import Allowance, Batch, Request, SearchProblem, Steps
from autopeft.engine.study import Trials
from autopeft.errors import TrainingError
from autopeft.types import Measurement, Outcome, Plan, SizeStep, Status

_N_PER_UPDATE = 4  # trials between two updates of the sampler, however many run at once; heuristic


def search(problem: SearchProblem, study: optuna.Study, allowance: Allowance) -> Steps[Outcome]:
    """Yield the runs to measure, receive their measurements, and return the plan found and its evidence.

    `study` is new: what an earlier process measured is sent again. The caller adds the measurements to the
    outcome. Raises TrainingError if a run that is needed broke off.
    """
    trials = Trials(problem, study)
    yield from measure_short_runs(trials, allowance)
    baselines, challengers = judge.choose_finalists(trials)
    baseline, finished = yield from train_in_full(trials, allowance, baselines, challengers)
    outcome = judge.judge(trials, baseline, finished)
    tested = yield from read_test(trials, outcome)
    sizes = yield from search_smaller_budgets(trials, allowance, outcome, finished)
    named = [outcome.best, outcome.baseline, outcome.challenger]
    return replace(outcome, test=judge.summarize(trials, named, tested), sizes=sizes)


def measure_short_runs(trials: Trials, allowance: Allowance) -> Steps[None]:
    """Measure the listed plans, then proposals of the sampler, as effort and limits allow."""
    problem, n_trials = trials.problem, trials.problem.n_trials
    n_listed = min(len(problem.listed), n_trials)
    finals = [*problem.full_runs(n_plans=2), *problem.test_runs(n_plans=2)]
    n_asked, is_covered = 0, True
    while n_asked < n_listed or (n_asked < n_trials and is_covered):
        if n_asked < n_listed:
            asked = trials.ask(min(allowance.n_at_once, n_listed - n_asked))
        else:
            asked = trials.ask(min(_N_PER_UPDATE, n_trials - n_asked))
        n_asked += len(asked)
        requests: list[Request] = []
        for _, proposal in asked:
            request = Request(proposal.plan, problem.short, proposal.arm)
            if allowance.covers([*requests, request], finals):
                requests.append(request)
        is_covered = is_covered and len(requests) == len(asked)
        proposals = [proposal for _, proposal in asked]
        runs = yield Batch(phase="short runs", n_runs=n_trials, requests=requests, proposals=proposals)
        by_plan = {run.plan: run for run in runs}
        for trial, proposal in asked:
            trials.tell(trial, proposal, by_plan.get(proposal.plan))
    if not is_covered:
        allowed = f"The limits allow {len(trials.short_runs)} of {n_trials} short runs"
        yield Batch(warning=f"{allowed}; raise --max-time or --max-cost for more.")


def train_in_full(
    trials: Trials, allowance: Allowance, baselines: Sequence[Plan], challengers: Sequence[Plan]
) -> Steps[tuple[Plan, Finished]]:
    """Train the best baseline that finishes and the challengers; return it, and all full runs."""
    factor = yield from tune_head_rate(trials, allowance, baselines[0], len(challengers))
    baseline, *others = (at_head_factor(plan, factor) for plan in baselines)
    plans = dict.fromkeys([baseline, *(at_head_factor(plan, factor) for plan in challengers)])
    covered = yield from keep_within_limits(trials, allowance, list(plans))
    finished = yield from train_all(trials, baseline, covered)
    while baseline not in finished and others:
        baseline = others.pop(0)
        finished |= yield from train_all(trials, baseline, [baseline])
    if baseline not in finished:
        raise TrainingError(
            "No learning rate of the baseline finished a full run: all of them diverged. Check the data, or "
            "set lower rates with learning_rate in a search space."
        )
    return baseline, finished


def tune_head_rate(trials: Trials, allowance: Allowance, baseline: Plan, n_challengers: int) -> Steps[float]:
    """Train the baseline at each factor of the head's rate; return that of the lowest loss."""
    problem = trials.problem
    factors = problem.head_factors if baseline.adapters else problem.head_factors[:1]
    plans = [at_head_factor(baseline, factor) for factor in factors]
    requests = [Request(plan, problem.full, trials.arm(plan)) for plan in plans]
    if len(plans) == 1 or not allowance.covers(requests, problem.test_runs(n_plans=1)):
        return factors[0]
    n_runs = len(problem.full_runs(n_plans=1 + n_challengers))
    runs = yield Batch(phase="full runs", n_runs=n_runs, requests=requests)
    losses = [math.inf if run.loss is None else run.loss for run in runs]
    return factors[losses.index(min(losses))]


def at_head_factor(plan: Plan, factor: float) -> Plan:
    """Scale the learning rate of a plan's task head, unless the user's plan has a factor of its own."""
    is_free = plan.head_factor == 1 and bool(plan.adapters)
    return replace(plan, head_factor=factor) if is_free else plan


def keep_within_limits(trials: Trials, allowance: Allowance, plans: Sequence[Plan]) -> Steps[list[Plan]]:
    """Keep the baseline, which comes first, and as many challengers as the limits allow in full."""
    kept, tests = list(plans), trials.problem.test_runs(n_plans=2)
    # A baseline beyond the budget cannot be returned: one challenger is then kept beyond any limit.
    n_needed = 1 if trials.problem.is_allowed(plans[0]) else 2
    while len(kept) > n_needed and not allowance.covers(request_full_runs(trials, kept), tests):
        kept.pop()
    if len(kept) < len(plans):
        allowed = f"The limits allow {len(kept) - 1} of {len(plans) - 1} challengers to be trained in full"
        yield Batch(warning=f"{allowed}; raise --max-time or --max-cost.")
    return kept


def request_full_runs(trials: Trials, plans: Sequence[Plan]) -> list[Request]:
    """Request a full run of each plan with each seed."""
    full = [trials.problem.lengths.full(seed=seed) for seed in trials.problem.seeds]
    return [Request(plan, fidelity, trials.arm(plan)) for plan in plans for fidelity in full]


def train_all(trials: Trials, baseline: Plan, plans: Sequence[Plan]) -> Steps[dict[Plan, list[Measurement]]]:
    """Train plans in full. Those that fail are left out, except for a baseline that the machine broke off."""
    requests = request_full_runs(trials, plans)
    runs = yield Batch(phase="full runs", n_runs=len(requests), requests=requests)
    finished = {}
    for plan in plans:
        of_plan = [run for run in runs if run.plan == plan]
        failed = next((run for run in of_plan if run.status is not Status.COMPLETE), None)
        if failed is None:
            finished[plan] = of_plan
        elif failed.status.is_of_machine and plan == baseline:
            raise broken_off("The full run", failed)
        else:
            again = "; --resume tries it again" if failed.status.is_of_machine else ""
            yield Batch(warning=f"Plan {plan.digest} is left out: {failed.reason}{again}.")
    return finished


def read_test(trials: Trials, outcome: Outcome) -> Steps[Finished]:
    """Measure best and baseline, from their kept weights, on the test split; empty without a test split."""
    plans = list(dict.fromkeys([outcome.best, outcome.baseline]))
    tests = trials.problem.test_runs(n_plans=1)
    requests = [Request(plan, test, trials.arm(plan)) for plan in plans for test in tests]
    if not requests:
        return {}
    runs = yield Batch(phase="test", n_runs=len(requests), requests=requests)
    if failed := next((run for run in runs if run.status is not Status.COMPLETE), None):
        if failed.status.is_of_machine:
            raise broken_off("A run on the test split", failed)
        yield Batch(warning=f"Plan {failed.plan.digest} has no test score: {failed.reason}.")
        return {}
    return {plan: [run for run in runs if run.plan == plan] for plan in plans}


def search_smaller_budgets(
    trials: Trials, allowance: Allowance, outcome: Outcome, finished: Finished
) -> Steps[tuple[SizeStep, ...]]:
    """Find the best plan of a fifth of the budget, of a fifth of that, and so on."""
    steps: list[SizeStep] = []
    for small in trials.problem.sizes:
        short = [Request(plan, small.short, arm) for plan, arm in small.small_plans.items()]
        if not allowance.covers(short, [small.full]):
            yield Batch(warning="The limits leave out smaller budgets; raise --max-time or --max-cost.")
            break
        n_runs = len(trials.problem.planned["smaller budgets"])
        runs = yield Batch(phase="smaller budgets", n_runs=n_runs, requests=short)
        if not (ranked := judge.rank(small, runs)):
            break
        plan, arm = ranked[0].plan, small.small_plans[ranked[0].plan]
        full = Request(at_head_factor(plan, outcome.baseline.head_factor), small.full, arm)
        (run,) = yield Batch(phase="smaller budgets", n_runs=n_runs, requests=[full])
        if run.metric is None:
            break
        difference = judge.compare(small, [run], finished[outcome.best][:1])
        steps.append(
            SizeStep(
                share=small.context.max_params / trials.problem.context.max_params,
                max_trainable_params=small.context.max_params,
                plan=run.plan,
                arm=arm,
                metric_mean=run.metric,
                mean_difference=difference.mean,
                interval_95=(difference.low, difference.high),
                seconds=math.fsum(each.total_seconds for each in (*runs, run)),
            )
        )
    return tuple(steps)


def broken_off(run: str, measurement: Measurement) -> TrainingError:
    """Make the error for a failed run that the search cannot do without."""
    return TrainingError(
        f"{run} of plan {measurement.plan.digest} failed: {measurement.reason}. "
        "What was measured is kept; fix the cause and run the command again (a search with --resume)."
    )
