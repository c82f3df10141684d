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
    to_json,
)
from autopeft.report.forgetting import forgetting_json
from autopeft.report.helped import helped_json

TRIAL_COLUMNS = (
    "trial",
    "arm",
    "plan_hash",
    "trainable_params",
    "learning_rate",
    "rung",
    "seed",
    "status",
    "split",
    "metric",
    "loss",
    "train_steps",
    "train_examples",
    "train_seconds",
    "eval_examples",
    "eval_seconds",
    "peak_bytes",
)


def result_json(result: SearchResult, status: str) -> dict[str, Any]:
    """The content of result.json (schema_version 1): plain values, never NaN.

    Args:
        result: A finished or stopped search.
        status: How the run ended, `complete` where it did.

    Returns:
        The documented keys, plus `smallest`, `label_names`, `splits` and `settings`. Without
        a confirmation the numbers of a plan are None and its seeds are empty.
    """
    setting = result.setting
    content = {
        "schema_version": 1,
        "status": status,
        "base_model": setting.base_model,
        "data": setting.data,
        "task": setting.task,
        "metric": setting.metric,
        "greater_is_better": setting.greater_is_better,
        "label_names": list(setting.label_names),
        "budget": to_json(setting.budget),
        "best": {**_answer(result, "best"), "plan_path": "best/plan.yaml"},
        "smallest": _answer(result, "smallest"),
        "baseline": _baseline(result),
        "verdict": to_json(result.verdict),
        "test": _tests(result),
        "forgetting": forgetting_json(result.forgetting),
        "sentences": list(result.sentences),
        "front": [_on_front(measurement) for measurement in result.front],
        "proxy": to_json(result.proxy),
        "sensitivity": {**helped_json(result), "scores": _scores(result)},
        "cost": to_json(result.cost),
        "splits": to_json(setting.splits),
        "settings": to_json(result.spec),
        "environment": dict(result.environment),
    }
    finite: dict[str, Any] = _finite(content)
    return finite


def find(records: Iterable[Confirmation], name: str, plan: Plan) -> Confirmation | None:
    """The record called `name`, else one of an equal plan, else None: equal plans are confirmed once."""
    candidates = tuple(records)
    named = (record for record in candidates if record.name == name)
    equal = (record for record in candidates if record.plan == plan)
    return next(named, None) or next(equal, None)


def first_proposals(result: SearchResult) -> dict[Plan, Proposal]:
    """Plan -> the first trial that proposed it."""
    first: dict[Plan, Proposal] = {}
    for proposal in result.proposals:
        first.setdefault(proposal.plan, proposal)
    return first


def trial_rows(result: SearchResult) -> list[dict[str, Any]]:
    """One row per measurement, in their order; the keys are `TRIAL_COLUMNS`."""
    first = first_proposals(result)
    digests = {plan: plan.digest for plan in {measurement.plan for measurement in result.measurements}}
    rows = []
    for measurement in result.measurements:
        plan, fidelity = measurement.plan, measurement.fidelity
        proposal = first.get(plan)
        values = (
            proposal.trial if proposal else None,
            str(proposal.arm) if proposal else "confirm",
            digests[plan],
            plan.trainable_params,
            plan.learning_rate,
            _rung(measurement, result.proxy.rung_steps),
            fidelity.seed,
            measurement.status.value,
            fidelity.split,
            measurement.metric,
            measurement.loss,
            fidelity.train_steps,
            fidelity.train_examples,
            measurement.train_seconds,
            fidelity.eval_examples,
            measurement.eval_seconds,
            measurement.peak_bytes,
        )
        rows.append(dict(zip(TRIAL_COLUMNS, values, strict=True)))
    return rows


def trials_csv(result: SearchResult) -> str:
    """The content of trials.csv; floats as `repr` writes them, so that equal runs give equal text."""
    return _csv(TRIAL_COLUMNS, (row.values() for row in trial_rows(result)))


def sensitivity_csv(sites: Sequence[Site], scores: Sequence[SiteScores]) -> str:
    """The content of sensitivity.csv: one row per site, one column per score; no layer outside the stack.

    Beside `spectrum` stands the effective rank of each site's gradient, empty where there is none.
    """
    columns: dict[str, Sequence[float | None]] = {score.name: score.values for score in scores}
    ranks = {f"{score.name}_effective_rank": effective_ranks(score) for score in scores}
    columns |= {name: found for name, found in ranks.items() if found}
    rows = (
        (site.name, site.layer, site.role, site.in_features, site.out_features, *values)
        for site, *values in zip(sites, *columns.values(), strict=True)
    )
    return _csv(("site", "layer", "role", "in_features", "out_features", *columns), rows)


def effective_ranks(score: SiteScores) -> tuple[float | None, ...]:
    """Of a spectrum, how many equal directions would spread a site's energy as much; else nothing.

    The participation ratio (Σ σ²)² / Σ σ⁴ of the gradient's singular values σ: 1 where one direction holds
    all of its energy, r where r hold it evenly. None at sites without a spectrum. The ranks beyond those
    that are known count in the numerator alone, where they matter.

    Example:
        >>> even = SiteScores(name="spectrum", values=(4.0, 1.0), profiles=((1.0,) * 4, (1.0,)))
        >>> effective_ranks(even)
        (4.0, 1.0)
    """
    if score.name != "spectrum":
        return ()
    found: list[float | None] = []
    for value, energies in zip(score.values, score.profiles, strict=True):
        total = max(value, math.fsum(energies))
        found.append(1 / math.fsum((energy / total) ** 2 for energy in energies) if total > 0 else None)
    return tuple(found)


def _scores(result: SearchResult) -> list[dict[str, Any]]:
    """How far each score can be trusted; the values are in sensitivity.csv."""
    return [{"name": s.name, "split_half": s.split_half, "n_examples": s.n_examples} for s in result.scores]


def _answer(result: SearchResult, name: str) -> dict[str, Any]:
    plan: Plan = getattr(result, name)
    return {
        "plan": to_json(plan),
        "digest": plan.digest,
        "trainable_params": plan.trainable_params,
        "head_params": result.setting.head_params,
        "percent": 100 * plan.trainable_params / result.setting.budget.base_params,
        **_numbers(find(result.confirmations, name, plan)),
    }


def _on_front(measurement: Measurement) -> dict[str, Any]:
    """A plan that no other beats on both loss and parameters, by the numbers of the search."""
    plan = measurement.plan
    return {
        "plan": plan.digest,
        "trainable_params": plan.trainable_params,
        "loss": measurement.loss,
        "metric": measurement.metric,
    }


def _baseline(result: SearchResult) -> dict[str, Any]:
    plan = result.baseline
    proposal = first_proposals(result).get(plan)
    return {
        "name": str(proposal.arm) if proposal else "baseline",
        **_answer(result, "baseline"),
        "learning_rate": plan.learning_rate,
    }


def _tests(result: SearchResult) -> dict[str, Any] | None:
    if not result.test:
        return None
    names = ("best", "smallest", "baseline")
    return {name: _numbers(find(result.test, name, getattr(result, name))) for name in names}


def _numbers(record: Confirmation | None) -> dict[str, Any]:
    if record is None:
        return {"metric_mean": None, "metric_std_error": None, "seeds": []}
    return {
        "metric_mean": record.metric_mean,
        "metric_std_error": record.metric_std_error,
        "seeds": list(record.seeds),
    }


def _rung(measurement: Measurement, rung_steps: Sequence[int]) -> int | str | None:
    fidelity = measurement.fidelity
    if fidelity.split != "search":
        return fidelity.split
    return rung_steps.index(fidelity.train_steps) if fidelity.train_steps in rung_steps else None


def _csv(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def _finite(content: Any) -> Any:
    """The same content with None for every NaN and infinity, which JSON cannot say."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
