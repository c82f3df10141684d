"""Full runs of the finalists, the verdict on them, the reading of the test split, and smaller budgets."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from autopeft import statistics
from autopeft.engine.cost import smaller_runs
from autopeft.engine.finalists import rank
from autopeft.engine.problem import Allowance, Batch, Key, Request, SearchProblem, Steps
from autopeft.engine.study import Trials
from autopeft.errors import TrainingError
from autopeft.types import Arm, FullRun, Measurement, Plan, SizeStep, Status, Verdict

_ABOVE_BUDGET = "{0} is returned, since {1} trains more parameters than the budget allows."
_MARGIN = 0.01  # one point, or one percent of a loss

Finished = Mapping[Plan, Sequence[Measurement]]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What is returned, what it was compared with, and how each finished plan did on the confirm split."""

    best: Plan
    baseline: Plan
    challenger: Plan | None
    verdict: Verdict
    finished: Finished


def train_in_full(
    problem: SearchProblem,
    trials: Trials,
    allowance: Allowance,
    baselines: Sequence[Plan],
    challengers: Sequence[Plan],
) -> Steps[tuple[Plan, Finished]]:
    """Train the best baseline and the challengers that the limits cover, continuing their short runs.

    Return the baseline, and the full runs of each plan that finished, one for each seed. The best factor of
    the head's learning rate is found with the baseline, and all plans are trained at it. If a baseline
    diverges, the next one is trained. Challengers that fail or are beyond the limits are left out, with a
    warning. If the baseline exceeds the budget, it cannot be returned, and one challenger is trained beyond
    any limit.

    Raises:
        TrainingError: The machine broke off a run of the baseline, or all baselines diverged.
    """
    first, tests = baselines[0], problem.test_runs(n_plans=2)
    factors = problem.head_factors if first.adapters else problem.head_factors[:1]
    n_runs = len(problem.seeds) * (1 + len(challengers)) + len(factors) - 1
    ahead = [*tests, *smaller_runs(problem)]

    def requests_for(plans: Sequence[Plan], seeds: Sequence[int]) -> list[Request]:
        full = [problem.lengths.full(seed=seed) for seed in seeds]
        return [Request(plan, fidelity, trials.arm(plan)) for plan in plans for fidelity in full]

    factor = factors[0]
    requests = requests_for([_at_head_factor(first, factor) for factor in factors], problem.seeds[:1])
    if len(factors) > 1 and allowance.covers(requests, problem.test_runs(n_plans=1)):
        others = problem.full_runs(n_plans=1 + len(challengers))[1:]
        runs = yield Batch(
            phase="full runs", n_runs=n_runs, requests=requests, ahead=[*others, *smaller_runs(problem)]
        )
        yield from _warnings_of(run for run in runs if run.status.is_of_machine)
        factor = factors[_lowest_loss(runs)]
    plans = list(dict.fromkeys(_at_head_factor(plan, factor) for plan in (first, *challengers)))
    least = 1 if problem.is_allowed(first) else 2
    n_covered = len(plans)
    while n_covered > least and not allowance.covers(requests_for(plans[:n_covered], problem.seeds), tests):
        n_covered -= 1
    if n_covered < len(plans):
        text = "The limits allow {} of {} challengers to be trained in full; raise --max-time or --max-cost."
        yield Batch.note(text.format(n_covered - 1, len(plans) - 1))
    finished: dict[Plan, list[Measurement]] = {}
    for index, usual in enumerate(baselines):
        baseline = _at_head_factor(usual, factor)
        of_batch = plans[:n_covered] if index == 0 else [baseline]
        requests = requests_for(of_batch, problem.seeds)
        runs = yield Batch(phase="full runs", n_runs=n_runs, requests=requests, ahead=ahead)
        for plan in of_batch:
            of_plan = [run for run in runs if run.plan == plan]
            failed = next((run for run in of_plan if run.status is not Status.COMPLETE), None)
            if failed is None:
                finished[plan] = of_plan
            elif failed.status.is_of_machine and plan == baseline:
                raise broken_off("The full run", failed)
            else:
                yield from _warnings_of([failed])
        if baseline in finished:
            return baseline, finished
    raise TrainingError(
        "No learning rate of the baseline finished a full run: all of them diverged. Check the data, or "
        "set lower rates with learning_rate in a search space."
    )


def _warnings_of(failed: Iterable[Measurement]) -> Steps[None]:
    for run in failed:
        again = "; --resume tries it again" if run.status.is_of_machine else ""
        yield Batch.note(f"Plan {run.plan.digest} is left out: {run.reason}{again}.")


def _lowest_loss(runs: Sequence[Measurement]) -> int:
    losses = [math.inf if run.loss is None else run.loss for run in runs]
    return losses.index(min(losses))


def _at_head_factor(plan: Plan, factor: float) -> Plan:
    """Scale the learning rate of a plan's task head, unless the plan has a factor of its own."""
    is_free = plan.head_factor == 1 and bool(plan.adapters)
    return replace(plan, head_factor=factor) if is_free else plan


def judge(problem: SearchProblem, trials: Trials, baseline: Plan, finished: Finished) -> Judgement:
    """Compare the best challenger with the baseline on all confirm rows, and choose which is returned.

    If the baseline exceeds the budget, it is the challenger, as `inconclusive`; TrainingError without a
    challenger.
    """
    challengers = [plan for plan in finished if plan != baseline]
    challenger = max(challengers, key=lambda plan: _mean(problem, finished[plan]), default=None)
    difference = None
    if challenger is not None:
        difference = statistics.paired_difference(
            *(scores_of(problem, finished[plan]) for plan in (challenger, baseline)),
            span=problem.metric.score_span,
            examples=problem.examples("confirm"),
            n_challengers=len(challengers),
        )
    margin = problem.spec.search.margin  # the difference that does not matter
    if margin is None:  # 0.01, or 1 % of an unbounded loss or error
        is_unbounded_loss = problem.metric.score_span is None and not problem.metric.greater_is_better
        margin = _MARGIN * abs(_mean(problem, finished[baseline])) if is_unbounded_loss else _MARGIN
    names = _name(trials, challenger or baseline), _name(trials, baseline)
    verdict = statistics.verdict(
        difference,
        names=names,
        params=((challenger or baseline).trainable_params, baseline.trainable_params),
        margin=margin,
        metric=problem.metric,
    )
    best = baseline if challenger is None or verdict.label == "default kept" else challenger
    if not problem.is_allowed(best):  # only a plan of the user can exceed the budget
        if challenger is None:
            raise TrainingError(
                "Your baseline exceeds the budget, and no plan within the budget finished a full run. Raise "
                "--budget, or search with --effort normal."
            )
        best, verdict = (
            challenger,
            replace(verdict, label="inconclusive", sentence=_ABOVE_BUDGET.format(*names)),
        )
    return Judgement(best=best, baseline=baseline, challenger=challenger, verdict=verdict, finished=finished)


def _name(trials: Trials, plan: Plan) -> str:
    label = trials.arm(plan).label
    return {"head": "the head alone", "untrained": "the untrained model"}.get(label, label)


def scores_of(problem: SearchProblem, runs: Sequence[Measurement]) -> list[list[float]]:
    """Return the scores (S, N) of a plan's S runs on N rows, with the sign that makes larger ones better."""
    return [[problem.sign * score for score in run.example_scores] for run in runs]


def _mean(problem: SearchProblem, runs: Sequence[Measurement]) -> float:
    return fmean(score for scores in scores_of(problem, runs) for score in scores)


def read_test(problem: SearchProblem, trials: Trials, judged: Judgement) -> Steps[Finished]:
    """Measure best and baseline, from their kept weights, on the test split; empty without a test split.

    Raises:
        TrainingError: A run did not complete.
    """
    plans = list(dict.fromkeys([judged.best, judged.baseline]))
    tests = problem.test_runs(n_plans=1)
    requests = [Request(plan, test, trials.arm(plan)) for plan in plans for test in tests]
    if not requests:
        return {}
    runs = yield Batch(phase="test", n_runs=len(requests), requests=requests, ahead=smaller_runs(problem))
    if failed := next((run for run in runs if run.status is not Status.COMPLETE), None):
        raise broken_off("A run on the test split", failed)
    return {plan: [run for run in runs if run.plan == plan] for plan in plans}


def full_runs(
    problem: SearchProblem, trials: Trials, judged: Judgement, finished: Finished
) -> tuple[FullRun, ...]:
    """Average the runs of each plan in `finished`: best, baseline, challenger, then others by their arms."""
    names = {judged.baseline: "baseline", judged.best: "best"}
    if judged.challenger is not None:
        names.setdefault(judged.challenger, "challenger")
    order = dict.fromkeys([judged.best, judged.baseline, *filter(None, [judged.challenger]), *finished])
    records = []
    for plan in [plan for plan in order if plan in finished]:
        of_plan = finished[plan]
        table = [list(run.example_scores) for run in of_plan]
        mean, std_error = statistics.mean_and_std_error(
            table, span=problem.metric.score_span, examples=problem.examples(of_plan[0].fidelity.split)
        )
        records.append(
            FullRun(
                name=names.get(plan, str(trials.arm(plan))),
                plan=plan,
                split=of_plan[0].fidelity.split,
                metric_mean=mean,
                metric_std_error=std_error,
                seeds=tuple(run.fidelity.seed for run in of_plan),
                metrics=tuple(math.fsum(scores) / len(scores) for scores in table),
                mean_loss=math.fsum(run.loss or 0.0 for run in of_plan) / len(of_plan),
                train_seconds=math.fsum(run.train_seconds_from_start for run in of_plan) / len(of_plan),
            )
        )
    return tuple(records)


def smaller_budgets(
    problem: SearchProblem, trials: Trials, allowance: Allowance, judged: Judgement
) -> Steps[tuple[SizeStep, ...]]:
    """Find the best plan of a fifth of the budget, of a fifth of that, and so on.

    `--sizes` counts the full budget too, so that `--sizes 3` asks for two smaller ones. For each, small plans
    make short runs, and the best is trained in full and compared with the returned plan: same seed, same
    confirm rows. The list ends early if no plan fits, time or cost runs out, or a run fails.
    """
    found: list[SizeStep] = []
    seed = problem.seeds[0]
    short, full = problem.lengths.short(seed=seed), problem.lengths.full(seed=seed)
    known = {*((plan, short) for plan in trials.short), *((plan, full) for plan in judged.finished)}
    for power in range(1, problem.spec.search.sizes):
        arms = problem.smaller(power).small_plans
        if not arms:
            break
        step = yield from _best_of_size(problem, allowance, judged, arms, power=power, known=known)
        if step is None:
            break
        found.append(step)
        known |= {*((plan, short) for plan in arms), (step.plan, full)}
    return tuple(found)


def _best_of_size(
    problem: SearchProblem,
    allowance: Allowance,
    judged: Judgement,
    arms: Mapping[Plan, Arm],
    *,
    power: int,
    known: Collection[Key],
) -> Steps[SizeStep | None]:
    """Find the best of some plans; `known` are runs that were measured, which cost nothing again."""
    seed, max_params = problem.seeds[0], problem.smaller(power).context.max_params
    short, full = problem.lengths.short(seed=seed), problem.lengths.full(seed=seed)
    words, later = f"{max_params:,} parameters", smaller_runs(problem, after=power)
    requests = [Request(plan, short, arm) for plan, arm in arms.items()]
    if not allowance.covers(requests, [full]):
        yield Batch.note(f"The limits leave out the search among plans of {words}.")
        return None
    runs = yield Batch(
        phase=f"short runs, {words}", n_runs=len(requests), requests=requests, ahead=[full, *later]
    )
    ranked = rank(problem, runs)
    if not ranked:
        return None
    plan = _at_head_factor(ranked[0].plan, judged.baseline.head_factor)
    request = Request(plan, full, arms[ranked[0].plan])
    if not allowance.covers([request]):
        yield Batch.note(f"The limits leave out the search among plans of {words}.")
        return None
    (run,) = yield Batch(phase=f"full run, {words}", n_runs=1, requests=[request], ahead=later)
    if run.metric is None:
        return None
    difference = statistics.paired_difference(
        scores_of(problem, [run]),
        scores_of(problem, judged.finished[judged.best][:1]),
        span=problem.metric.score_span,
        examples=problem.examples("confirm"),
    )
    return SizeStep(
        share=max_params / problem.context.max_params,
        max_trainable_params=max_params,
        plan=plan,
        arm=request.arm,
        metric_mean=run.metric,
        mean_difference=difference.mean,
        interval_95=(difference.low, difference.high),
        seconds=sum(each.total_seconds for each in (*runs, run) if (each.plan, each.fidelity) not in known),
    )


def broken_off(run: str, measurement: Measurement) -> TrainingError:
    """Make the error for a failed run that the search cannot do without."""
    return TrainingError(
        f"{run} of plan {measurement.plan.digest} failed: {measurement.reason}. "
        "What was measured is kept; fix the cause and run it again, a search with --resume."
    )
