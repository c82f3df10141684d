"""The files that programs read: result.json, trials.csv and sensitivity.csv, as text or plain values."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from autopeft.records import (
    Confirmation,
    Measurement,
    Plan,
    Proposal,
    SearchResult,
    Site,
    SiteScores,
    Status,
)
from autopeft.report.measured import position_of, record_of
from autopeft.report.schema import (
    BaselineAnswer,
    BestAnswer,
    FrontPlan,
    Numbers,
    PlanAnswer,
    ResultFile,
    ScoreTrust,
    SensitivityAnswer,
    TestNumbers,
    TrialRow,
)

ANSWERS = ("best", "smallest", "baseline")  # the plans that a search names
NO_ARM = "confirm"  # the arm of a plan that no trial proposed
_SETTING_KEYS = "base_model data task metric greater_is_better label_names".split()  # in result.json


def result_json(result: SearchResult, status: str) -> dict[str, Any]:
    """The content of result.json (schema_version 2): plain values, None in place of NaN and infinity.

    `status` says how the run ended: `complete` if nothing stopped it. Without a confirmation the numbers of a
    plan are None and its seeds are empty.
    """
    setting = result.setting
    content = ResultFile(
        schema_version=2,
        status=status,
        **{name: getattr(setting, name) for name in _SETTING_KEYS},
        budget=setting.budget,
        best=BestAnswer(**_answer(result, "best"), plan_path="best/plan.yaml"),
        smallest=PlanAnswer(**_answer(result, "smallest")),
        baseline=BaselineAnswer(
            name=arm_names(result).get(result.baseline, "baseline"),
            **_answer(result, "baseline"),
            learning_rate=result.baseline.learning_rate,
        ),
        head=_head(result),
        incumbent=None if result.incumbent == result.best else PlanAnswer(**_answer(result, "incumbent")),
        verdict=result.verdict,
        test=_test(result) if result.test else None,
        sentences=sentences_of(result),
        front=tuple(
            FrontPlan(
                plan_id=run.plan.digest,
                trainable_params=run.plan.trainable_params,
                loss=run.loss,
                metric=run.metric,
            )
            for run in result.front
        ),
        proxy=result.proxy,
        sensitivity=SensitivityAnswer(
            score=result.spec.search.score,
            scores=tuple(
                ScoreTrust(name=score.name, split_half=score.split_half, n_examples=score.n_examples)
                for score in result.scores
            ),
        ),
        cost=result.cost,
        splits=setting.splits,
        settings=result.spec,
        environment=result.environment,
    )
    finite: dict[str, Any] = _finite(content.model_dump(mode="json"))
    return finite


def first_proposals(result: SearchResult) -> dict[Plan, Proposal]:
    """Plan -> the first trial that proposed it."""
    return {proposal.plan: proposal for proposal in reversed(result.proposals)}


def arm_names(result: SearchResult) -> dict[Plan, str]:
    """Plan -> the arm of the first trial that proposed it, as text."""
    return {plan: str(proposal.arm) for plan, proposal in first_proposals(result).items()}


def arms_of_plans(result: SearchResult) -> dict[Plan, str]:
    """The same with the methods of a mix that the plan lacks, as the budget left no module for them."""
    return {plan: _arm_words(proposal) for plan, proposal in first_proposals(result).items()}


def _arm_words(proposal: Proposal) -> str:
    used = {adapter.method for adapter in proposal.plan.adapters}
    unused = [method for method in dict.fromkeys(proposal.arm.methods) if method not in used]
    return f"{proposal.arm} (no module for {' and '.join(unused)})" if used and unused else str(proposal.arm)


def sentences_of(result: SearchResult) -> tuple[str, ...]:
    """What a reader should know of the answer: what the base model lacks comes first."""
    return (*filter(None, (result.setting.lacking,)), *result.sentences)


def trials_csv(result: SearchResult) -> str:
    """The content of trials.csv: one row per measurement, in their order.

    Floats are written as `repr` does, so that equal runs give equal text. Seconds that were not counted are
    empty: no clock measures 0.
    """
    first = first_proposals(result)
    # Both are slow to compute, and most plans have several rows.
    described = {plan: _described(plan, result) for plan in {run.plan for run in result.measurements}}
    steps, rows = result.proxy.rung_steps, []
    for run in result.measurements:
        plan, fidelity, proposal = run.plan, run.fidelity, first.get(run.plan)
        is_rung = fidelity.split == "search" and fidelity.train_steps in steps
        row = TrialRow(
            trial=proposal.trial if proposal else None,
            arm=str(proposal.arm) if proposal else NO_ARM,
            **described[plan],
            rung=steps.index(fidelity.train_steps) if is_rung else None,
            **vars(fidelity),
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


def _answer(result: SearchResult, name: str) -> dict[str, Any]:
    plan: Plan = getattr(result, name)
    return _facts(result, plan) | _numbers(record_of(result.confirmations, plan, name=name))


def _facts(result: SearchResult, plan: Plan) -> dict[str, Any]:
    return {
        "plan": plan,
        "plan_id": plan.digest,
        "trainable_params": plan.trainable_params,
        "head_params": result.setting.head_params,
        "learning_rate_position": position_of(plan, result),
        "share_of_base": plan.trainable_params / result.setting.budget.base_params,
    }


def _head(result: SearchResult) -> PlanAnswer | None:
    """The head alone as it was confirmed; None where it was not."""
    record = next((record for record in result.confirmations if not record.plan.adapters), None)
    return None if record is None else PlanAnswer(**_facts(result, record.plan), **_numbers(record))


def _test(result: SearchResult) -> TestNumbers:
    records = {name: record_of(result.test, getattr(result, name), name=name) for name in ANSWERS}
    return TestNumbers(**{name: Numbers(**_numbers(record)) for name, record in records.items()})


def _numbers(record: Confirmation | None) -> dict[str, Any]:
    return {
        "metric_mean": record and record.metric_mean,
        "metric_std_error": record and record.metric_std_error,
        "seeds": record.seeds if record else (),
        "metrics": record.metrics if record else (),
    }


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
