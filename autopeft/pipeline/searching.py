"""`search`: from a specification to a run directory with its report."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import optuna

from autopeft import engine, report, space, train
from autopeft.adapters import compile_plan
from autopeft.engine import Ledger, Outcome, Progress, Schedule
from autopeft.extension import ExportSource, discover
from autopeft.pipeline.asking import asked_space, given_plans, schedule_of, score_names, search_problem
from autopeft.pipeline.forgetting import check_forgetting, measure_forgetting, with_general_text
from autopeft.pipeline.memory import NAMED, InMemory
from autopeft.pipeline.prepare import (
    Prepared,
    environment,
    fit_to_budget,
    parse_budget,
    prepare,
    setting_of,
    with_demo_settings,
)
from autopeft.pipeline.resuming import keep_scores, known_measurements, note_start, record, resumed
from autopeft.pipeline.scoring import logged_scores
from autopeft.records import (
    IN_MEMORY,
    Cost,
    Forgetting,
    GeneralText,
    Measurement,
    Plan,
    PlanDocument,
    RunSpec,
    SearchResult,
    Status,
    to_json,
)
from autopeft.store import RunDir, write_plan, write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a search would do, without doing it: the answer to `--dry-run`.

    `trials` are plans at the first rung; `search_cost` is what all rungs cost at most, in R, without the
    few runs of twins and further rates. `forgetting` is the text that it is measured on, if asked for.
    """

    max_trainable_params: int
    base_params: int
    head_params: int
    n_sites: int
    methods: tuple[str, ...]
    trials: int
    search_cost: float
    rung_steps: tuple[int, ...]
    full_run_steps: int
    confirm_steps: int
    confirm_seeds: int
    forgetting: GeneralText | None = None


def search(
    spec: RunSpec,
    *,
    given: frozenset[str] = frozenset(),
    resume: bool = False,
    progress: Progress,
    memory: InMemory = NAMED,
) -> tuple[SearchResult, Path]:
    """Search, confirm, write everything; the run directory comes back with the result.

    Args:
        spec: What is asked.
        given: Dotted names of the settings that the user gave; the demo's own settings
            fill in for the others where neither model nor data is named.
        resume: Continue the run in `spec.output.out`, or extend it by a larger
            `search.trials` or `search.max_time_seconds`.
        progress: Told of phases and measurements.
        memory: What was passed beside the settings; whoever passes a model lends it (`model.restoring`).

    Raises:
        AutopeftError: See `errors`; nothing is written where it comes before the first measurement.
    """
    started = time.monotonic()
    spec = resumed(spec, given) if resume else with_demo_settings(spec, given)
    asked = asked_space(spec)
    check_forgetting(spec)
    with RunDir.create(_out(spec), resume=resume) as run:
        try:
            prepared = prepare(spec, keep_weights=run.weights, paused=run.paused, memory=memory)
            prepared = with_general_text(prepared)
            return _search_in(run, prepared, asked, progress=progress, started=started), run.path
        except BaseException:
            run.discard()  # only where nothing is measured yet
            raise


def preview(spec: RunSpec, *, given: frozenset[str] = frozenset(), resume: bool = False) -> Preview:
    """Check everything that a search would need and say how much work it would be."""
    spec = resumed(spec, given) if resume else with_demo_settings(spec, given)
    asked = asked_space(spec)
    check_forgetting(spec)
    prepared = with_general_text(prepare(spec))
    parsed, available = parse_budget(prepared)
    feasible, context = fit_to_budget(prepared, asked, parsed=parsed, available=available)
    given_plans(prepared, context)
    schedule = schedule_of(prepared)
    n_trials = engine.n_first(schedule, trials=spec.search.trials, strategy=spec.search.strategy)
    return Preview(
        max_trainable_params=parsed.max_trainable_params,
        base_params=parsed.base_params,
        head_params=prepared.base.head_params,
        n_sites=len(prepared.base.sites),
        methods=feasible.arms,
        trials=n_trials,
        search_cost=n_trials * schedule.rung_cost(0) + engine.later_cost(schedule),
        rung_steps=schedule.rung_steps,
        full_run_steps=schedule.full_steps,
        confirm_steps=schedule.confirm_steps,
        confirm_seeds=spec.confirm.seeds,
        forgetting=prepared.general,
    )


def _out(spec: RunSpec) -> Path:
    if spec.output.out is not None:
        return Path(spec.output.out)
    data_name = Path(spec.data.source or "uci_sentiment").stem.strip("<>").replace(" ", "-")
    return Path("reports") / f"{data_name}-{datetime.now():%Y%m%d-%H%M%S}"


def _search_in(
    run: RunDir, prepared: Prepared, asked: space.Space, *, progress: Progress, started: float
) -> SearchResult:
    spec = prepared.spec
    parsed, available = parse_budget(prepared)
    feasible, context = fit_to_budget(prepared, asked, parsed=parsed, available=available)
    user_plans = given_plans(prepared, context)  # a plan that cannot be used is refused before any work
    first_trials = note_start(run, prepared)
    run.write_spec(spec)
    scoring_started = time.monotonic()
    progress.phase("sensitivity", 0)
    names = score_names(spec, asked)
    scores = keep_scores(run, lambda: logged_scores(prepared, names))
    scoring_seconds = time.monotonic() - scoring_started
    problem = search_problem(
        prepared, feasible, context, scores, first_trials=first_trials, user_plans=user_plans
    )
    bench = replace(prepared.bench, rung_steps=problem.schedule.rung_steps)
    ledger = Ledger(
        executor=discover("autopeft.executors")[spec.execution.executor],
        measure=bench.measure,
        progress=progress,
        known=known_measurements(run),
        record=lambda measurement: record(run, measurement),
        release=run.forget_paused,
        started=started,
        limit_seconds=spec.search.max_time_seconds,
    )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    outcome = engine.search(problem, ledger, storage=run.study_storage(fresh=True))
    run.close_study()
    forgetting = measure_forgetting(prepared, problem.schedule, ledger, outcome)
    result = SearchResult(
        spec=spec,
        setting=setting_of(prepared, parsed),
        sites=prepared.base.sites,
        scores=scores,
        proposals=outcome.proposals,
        measurements=outcome.measurements,
        best=outcome.best,
        smallest=outcome.smallest,
        baseline=outcome.baseline,
        confirmations=outcome.confirmations,
        test=outcome.test,
        verdict=outcome.verdict,
        proxy=outcome.proxy,
        cost=_cost(outcome, problem.schedule, scoring_seconds),
        environment=environment(prepared.base, dtype=spec.execution.dtype),
        score_pairs=outcome.score_pairs,
        front=outcome.front,
        sentences=outcome.sentences,
        forgetting=forgetting,
    )
    _write_best(run, prepared, result)
    run.save_result(result)
    report.write(result, run.path)
    return result


def _cost(outcome: Outcome, schedule: Schedule, scoring_seconds: float) -> Cost:
    """Seconds by stage; R is a confirmed full run of the baseline, or the longest proxy run scaled up."""
    spent = {"search": 0.0, "confirm": 0.0, "test": 0.0}
    for measurement in outcome.measurements:
        spent[measurement.fidelity.split] += measurement.train_seconds + measurement.eval_seconds
    of_baseline = [
        m for m in outcome.measurements if m.plan == outcome.baseline and m.status is Status.COMPLETE
    ]
    trained = [m for m in of_baseline if m.fidelity.split != "test"]
    longest = max(m.fidelity.train_steps for m in trained)
    rates = [
        m.train_seconds / m.trained_steps
        for m in trained
        if m.fidelity.train_steps == longest and m.trained_steps
    ]
    full_run = schedule.full_steps * sum(rates) / len(rates)
    searched = [m for m in outcome.measurements if m.fidelity.split == "search"]
    return Cost(
        sensitivity_seconds=scoring_seconds,
        search_seconds=spent["search"],
        confirm_seconds=spent["confirm"],
        full_run_seconds=full_run,
        full_runs=(scoring_seconds + spent["search"]) / full_run,
        examples_seen=sum(m.trained_steps for m in searched) * schedule.batch_size,
        sampled_share=_sampled_share(outcome, schedule, searched),
    )


def _sampled_share(outcome: Outcome, schedule: Schedule, searched: Sequence[Measurement]) -> float | None:
    """Of the search's cost: what went to plans that the sampler proposed, or that came from these."""
    sources = {proposal.plan: proposal.source for proposal in reversed(outcome.proposals)}
    of_arm = {proposal.arm: proposal.source for proposal in reversed(outcome.proposals)}
    total = sampled = 0.0
    for measurement in searched:
        proposal = next(own for own in outcome.proposals if own.plan == measurement.plan)
        source = sources[measurement.plan]
        source = of_arm[proposal.arm] if source == "retuned" else source
        total += schedule.cost_of(measurement)
        sampled += schedule.cost_of(measurement) * (source in ("sampler", "random", "refined"))
    return sampled / total if total else None


def _write_best(run: RunDir, prepared: Prepared, result: SearchResult) -> None:
    """`best/`: the plan, the configs that peft reads, and the weights of its first good seed."""
    fresh = run.path / "best.new"
    shutil.rmtree(fresh, ignore_errors=True)
    document = plan_document(prepared, result.best)
    write_plan(fresh / "plan.yaml", document)
    source = ExportSource(
        configs=compile_plan(result.best, prepared.methods).configs,
        base_model=result.setting.base_model_source.replace(IN_MEMORY, ""),
        task_type=prepared.task.peft_task_type,
        head=prepared.base.head_names,
        base=prepared.base.module,
    )
    discover("autopeft.exports")["native"].export(source, fresh / "adapters")
    good = _confirming_runs(result.measurements, result.best)
    if good:
        shutil.copytree(run.weights(result.best, good[0].fidelity.seed), fresh / "weights")
        write_text(fresh / "weights" / "training.json", training_json(good[0]))
    shutil.rmtree(run.best, ignore_errors=True)
    fresh.rename(run.best)
    if prepared.spec.search.objective == "pareto":
        for measurement in result.front:
            document = plan_document(prepared, measurement.plan)
            write_plan(run.path / "front" / f"{measurement.plan.trainable_params}.yaml", document)


def _confirming_runs(measurements: Sequence[Measurement], plan: Plan) -> list[Measurement]:
    return [
        m
        for m in measurements
        if m.plan == plan and m.fidelity.split == "confirm" and m.status is Status.COMPLETE
    ]


def plan_document(prepared: Prepared, plan: Plan) -> PlanDocument:
    """A plan with what it takes to repeat it."""
    spec = prepared.spec
    return PlanDocument(
        plan=plan,
        model=spec.model,
        data=spec.data,
        task=spec.task,
        base_params=prepared.base.base_params,
        head_params=prepared.base.head_params,
        schedule=train.SCHEDULE,
        seed=spec.search.seed,
    )


def training_json(measurement: Measurement, forgetting: Forgetting | None = None) -> str:
    """What a set of trained weights scored, and forgot where that is known, as JSON text beside them."""
    shown = to_json(replace(measurement, example_scores=()))
    keys = ("status", "metric", "loss", "train_seconds", "eval_seconds", "peak_bytes")
    content = {"plan_hash": measurement.plan.digest, **shown["fidelity"], **{key: shown[key] for key in keys}}
    if forgetting is not None:
        content["forgetting"] = report.forgetting_json(forgetting)
    return json.dumps(content, indent=2) + "\n"


def render(path: Path) -> SearchResult:
    """Render the report of a finished run again."""
    run = RunDir.open(path)
    result = run.load_result()
    report.write(result, run.path)
    return result
