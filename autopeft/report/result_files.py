"""The files for programs: result.json, trials.csv, sensitivity.csv; and a leaderboard."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from autopeft.report import schema
from autopeft.report.plan_names import is_untrained, marks_of, name_of
from autopeft.report.table_rows import arms, position_of, record_of, runs_on
from autopeft.types import Plan, SearchResult, SearchSoFar, Status, Target, TargetScores

Row = TypeVar("Row", bound=BaseModel)


def result_json(result: SearchResult) -> dict[str, Any]:
    """Return the content of result.json (schema_version 3); None stands for NaN and infinity."""
    arm = arms(result)[result.baseline]
    tests = [record_of(result.test, plan) for plan in (result.best, result.baseline)]
    best, baseline = (record and _filled(schema.Numbers, record) for record in tests)
    refit = result.refit
    refit_test = refit and refit.test and _filled(schema.Numbers, refit.test)
    content = _filled(
        schema.ResultFile,
        result,
        result.setting,
        schema_version=3,
        status="complete",
        best=_plan(schema.BestAnswer, result, result.best, plan_path="best/plan.yaml"),
        baseline=_plan(schema.BaselineAnswer, result, result.baseline, name=arm),
        challenger=result.challenger and _plan(schema.PlanAnswer, result, result.challenger),
        test=schema.TestNumbers(best=best, baseline=baseline) if best and baseline else None,
        refit=refit and _filled(schema.RefitAnswer, refit, test=refit_test),
        full_runs=tuple(_filled(schema.FullRunAnswer, record, record.plan) for record in result.full_runs),
        sizes=tuple(
            _filled(schema.SizeAnswer, step, **_plan_facts(result, step.plan), arm=str(step.arm))
            for step in result.sizes
        ),
        sentences=sentences_of(result),
        sensitivity=schema.SensitivityAnswer(
            score=result.spec.search.score,
            scores=tuple(_filled(schema.ScoreTrust, score) for score in result.scores),
        ),
        settings=result.spec,
    )
    return dict(json.loads(content.model_dump_json()))  # with null for NaN, which has no number in JSON


def _filled(kind: type[Row], *records: object, **values: Any) -> Row:
    """Make a row: each field is from `values`, or from the first record with an attribute of its name."""
    for name in kind.model_fields.keys() - values.keys():
        values[name] = next(getattr(record, name) for record in records if hasattr(record, name))
    return kind(**values)


def _plan(kind: type[Row], result: SearchResult, plan: Plan, **values: Any) -> Row:
    record = record_of(result.full_runs, plan)
    assert record is not None, "best, baseline and challenger have full runs"
    return _filled(kind, record, plan, **_plan_facts(result, plan), **values)


def _plan_facts(result: SearchResult, plan: Plan) -> dict[str, Any]:
    return {
        "plan": plan,
        "plan_id": plan.digest,
        "trainable_params": plan.trainable_params,
        "head_params": result.setting.head_params,
        "learning_rate_position": position_of(plan, result),
        "share_of_base": plan.trainable_params / result.setting.budget.base_params,
    }


def sentences_of(result: SearchResult | SearchSoFar) -> tuple[str, ...]:
    """Collect what a reader must know in addition to the verdict: weights missing from the base model."""
    return tuple(filter(None, (result.setting.lacking,)))


def trials_csv(result: SearchResult | SearchSoFar) -> str:
    """Return the content of trials.csv: one row per measurement, in their order.

    Floats are written as `repr` does, so that equal runs give equal text. Seconds that were not counted are
    empty: no clock measures 0.
    """
    trials = {proposal.plan: proposal.trial for proposal in reversed(result.proposals)}
    proposed_by, rows = arms(result), []
    # Computed once for each plan: it is slow, and most plans have several rows.
    described = {plan: _described(plan, result) for plan in {run.plan for run in result.measurements}}
    for run in result.measurements:
        row = _filled(
            schema.TrialRow,
            run,
            run.plan,
            run.fidelity,
            **described[run.plan],
            trial=trials.get(run.plan),
            arm=proposed_by[run.plan],
            # A complete run has trained for 0 seconds if it is of the untrained model; else 0 is not counted.
            train_seconds=run.train_seconds if run.status is Status.COMPLETE else run.train_seconds or None,
            eval_seconds=run.eval_seconds or None,
            overhead_seconds=run.overhead_seconds or None,
        )
        rows.append(row.model_dump(mode="json").values())
    return _csv(schema.TrialRow.model_fields, rows)


def _described(plan: Plan, result: SearchResult | SearchSoFar) -> dict[str, Any]:
    """Describe a plan for its rows: methods `lora+ia3`, ranks `2-8`, targets, position of its learning rate.

    Ranks are None for methods without rank, and one number if all are equal.
    """
    ranks = sorted({adapter.rank for adapter in plan.adapters if adapter.rank})
    methods = dict.fromkeys(adapter.method for adapter in plan.adapters)
    return {
        "methods": "+".join(methods) or None,
        "ranks": "-".join(str(rank) for rank in dict.fromkeys((ranks[0], ranks[-1]))) if ranks else None,
        "n_targets": len({adapter.target for adapter in plan.adapters}),
        "learning_rate_position": position_of(plan, result),
    }


def sensitivity_csv(targets: Sequence[Target], scores: Sequence[TargetScores]) -> str:
    """Return the content of sensitivity.csv: one row per target module, one column per score.

    The layer is empty for a target module outside the stack.
    """
    columns = {score.name: score.values for score in scores}
    rows = (
        (target.name, target.layer, target.role, target.in_features, target.out_features, *values)
        for target, *values in zip(targets, *columns.values(), strict=True)
    )
    return _csv(("target", "layer", "role", "in_features", "out_features", *columns), rows)


def _csv(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def leaderboard(result: SearchResult, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """List one row per plan: plans with a full run, best metric first, then other plans by lowest loss.

    `metric` and `loss` are of the split in `split`: confirm for full runs, search for short runs, whose
    numbers are no results. The untrained model has no `learning_rate` (None).
    """
    sign = 1 if result.setting.greater_is_better else -1
    full = sorted(result.full_runs, key=lambda record: -sign * record.metric_mean)
    short = [run for run in runs_on("search", result) if record_of(full, run.plan) is None]
    rows: list[tuple[Plan, str, float | None, float | None, float | None, int]] = [
        (r.plan, r.split, r.metric_mean, r.metric_std_error, r.mean_loss, len(r.seeds)) for r in full
    ]
    rows += [(run.plan, run.fidelity.split, run.metric, None, run.loss, 1) for run in short]
    proposed_by, tests = arms(result), {record.plan: record.metric_mean for record in result.test}
    return [
        {
            "plan_id": plan.digest,
            "answers": marks_of(result, plan),
            "arm": proposed_by[plan],
            "plan": name_of(plan, result, labels),
            "trainable_params": plan.trainable_params,
            "learning_rate": None if is_untrained(result, plan) else plan.learning_rate,
            "split": split,
            "metric": metric,
            "metric_std_error": std_error,
            "loss": loss,
            "n_seeds": n_seeds,
            "test_metric": tests.get(plan, math.nan),
        }
        for plan, split, metric, std_error, loss, n_seeds in rows
    ]
