"""The files that programs read: result.json, trials.csv and sensitivity.csv, as text or plain values."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from autopeft.records import FullRun, Measurement, Plan, SearchResult, Site, SiteScores, Status
from autopeft.report.rows import arms, position_of, record_of
from autopeft.report.schema import (
    BaselineAnswer,
    BestAnswer,
    FrontPlan,
    FullRunAnswer,
    Numbers,
    PlanAnswer,
    ResultFile,
    ScoreTrust,
    SensitivityAnswer,
    SizeAnswer,
    TestNumbers,
    TrialRow,
)

_SETTING_KEYS = "base_model data task metric greater_is_better label_names budget splits".split()


def result_json(result: SearchResult, status: str) -> dict[str, Any]:
    """The content of result.json (schema_version 3): plain values, None in place of NaN and infinity.

    `status` says how the run ended: `complete` if nothing stopped it.
    """
    content = ResultFile(
        schema_version=3,
        status=status,
        **{name: getattr(result.setting, name) for name in _SETTING_KEYS},
        best=BestAnswer(**_answer(result, result.best), plan_path="best/plan.yaml"),
        baseline=BaselineAnswer(
            **_answer(result, result.baseline),
            name=arms(result)[result.baseline],
            learning_rate=result.baseline.learning_rate,
        ),
        rival=None if result.rival is None else PlanAnswer(**_answer(result, result.rival)),
        verdict=result.verdict,
        test=_test(result) if result.test else None,
        full_runs=tuple(_full_run(record) for record in result.full_runs),
        longer=result.longer,
        sizes=_sizes(result),
        sentences=sentences_of(result),
        short_steps=result.short_steps,
        front=tuple(
            FrontPlan(
                plan_id=run.plan.digest,
                trainable_params=run.plan.trainable_params,
                loss=run.loss,
                metric=run.metric,
            )
            for run in result.front
        ),
        sensitivity=SensitivityAnswer(
            score=result.spec.search.score,
            scores=tuple(
                ScoreTrust(name=score.name, split_half=score.split_half, n_examples=score.n_examples)
                for score in result.scores
            ),
        ),
        cost=result.cost,
        settings=result.spec,
        environment=result.environment,
    )
    finite: dict[str, Any] = _finite(content.model_dump(mode="json"))
    return finite


def _answer(result: SearchResult, plan: Plan) -> dict[str, Any]:
    record = record_of(result.full_runs, plan)
    assert record is not None, "best, baseline and rival have full runs"
    return _facts(result, plan) | _numbers(record)


def _facts(result: SearchResult, plan: Plan) -> dict[str, Any]:
    return {
        "plan": plan,
        "plan_id": plan.digest,
        "trainable_params": plan.trainable_params,
        "head_params": result.setting.head_params,
        "learning_rate_position": position_of(plan, result),
        "share_of_base": plan.trainable_params / result.setting.budget.base_params,
    }


def _numbers(record: FullRun) -> dict[str, Any]:
    names = ("metric_mean", "metric_std_error", "seeds", "metrics")
    return {name: getattr(record, name) for name in names}


def _full_run(record: FullRun) -> FullRunAnswer:
    return FullRunAnswer(
        **_numbers(record),
        name=record.name,
        plan_id=record.plan.digest,
        trainable_params=record.plan.trainable_params,
        learning_rate=record.plan.learning_rate,
        mean_loss=record.mean_loss,
        train_seconds=record.train_seconds,
    )


def _test(result: SearchResult) -> TestNumbers:
    best, baseline = (record_of(result.test, plan) for plan in (result.best, result.baseline))
    assert best is not None and baseline is not None, "the test split was read for both"
    return TestNumbers(best=Numbers(**_numbers(best)), baseline=Numbers(**_numbers(baseline)))


def _sizes(result: SearchResult) -> tuple[SizeAnswer, ...]:
    return tuple(
        SizeAnswer(
            **_facts(result, step.plan),
            share=step.share,
            max_trainable_params=step.max_trainable_params,
            arm=str(step.arm),
            metric_mean=step.metric_mean,
            mean_difference=step.mean_difference,
            interval_95=step.interval_95,
            seconds=step.seconds,
        )
        for step in result.sizes
    )


def sentences_of(result: SearchResult) -> tuple[str, ...]:
    """What a reader should know of the answer: what the base model lacks comes first."""
    return (*filter(None, (result.setting.lacking,)), *result.sentences)


def trials_csv(result: SearchResult) -> str:
    """The content of trials.csv: one row per measurement, in their order.

    Floats are written as `repr` does, so that equal runs give equal text. Seconds that were not counted are
    empty: no clock measures 0.
    """
    trials = {proposal.plan: proposal.trial for proposal in reversed(result.proposals)}
    proposed_by, rows = arms(result), []
    # Slow to compute, and most plans have several rows.
    described = {plan: _described(plan, result) for plan in {run.plan for run in result.measurements}}
    for run in result.measurements:
        row = TrialRow(
            trial=trials.get(run.plan),
            arm=proposed_by[run.plan],
            **described[run.plan],
            **vars(run.fidelity),
            status=run.status,
            metric=run.metric,
            loss=run.loss,
            train_seconds=_train_seconds(run),
            eval_seconds=run.eval_seconds or None,
            overhead_seconds=run.overhead_seconds or None,
            peak_bytes=run.peak_bytes,
            trained_steps=run.trained_steps,
        )
        rows.append(row.model_dump(mode="json").values())
    return _csv(TrialRow.model_fields, rows)


def _train_seconds(run: Measurement) -> float | None:
    """The seconds of training: 0 where a complete run trained nothing, None where they were not counted."""
    return run.train_seconds if run.status is Status.COMPLETE else run.train_seconds or None


def _described(plan: Plan, result: SearchResult) -> dict[str, Any]:
    """What the rows of a plan share: its id `ab…`, methods `lora+ia3`, ranks `2-8` and so on.

    Ranks are None for methods without rank, and one number where all are equal.
    """
    ranks = sorted({adapter.rank for adapter in plan.adapters if adapter.rank})
    methods = dict.fromkeys(adapter.method for adapter in plan.adapters)
    return {
        "plan_id": plan.digest,
        "methods": "+".join(methods) or None,
        "ranks": "-".join(str(rank) for rank in dict.fromkeys((ranks[0], ranks[-1]))) if ranks else None,
        "n_sites": len({adapter.site for adapter in plan.adapters}),
        "trainable_params": plan.trainable_params,
        "learning_rate": plan.learning_rate,
        "learning_rate_position": position_of(plan, result),
    }


def sensitivity_csv(sites: Sequence[Site], scores: Sequence[SiteScores]) -> str:
    """The content of sensitivity.csv: one row per site, one column per score.

    The layer is empty for a site outside the stack.
    """
    columns = {score.name: score.values for score in scores}
    rows = (
        (site.name, site.layer, site.role, site.in_features, site.out_features, *values)
        for site, *values in zip(sites, *columns.values(), strict=True)
    )
    return _csv(("site", "layer", "role", "in_features", "out_features", *columns), rows)


def _csv(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def _finite(content: Any) -> Any:
    """The same content with None for every NaN and infinity, for which JSON has no number."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
