"""A result in a few words, as a small HTML table, and as rows of a leaderboard, for Python and notebooks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from autopeft.records import Confirmation, Plan, SearchResult, rate
from autopeft.report.measured import is_by_chance, is_untrained, smallest_mark
from autopeft.report.naming import no_adapters
from autopeft.report.page import answer_of
from autopeft.report.rendering import render
from autopeft.report.tables import ANSWERS, NO_ARM, arm_names
from autopeft.report.view import proxies
from autopeft.report.words import NOTHING, PartWords, metric, plan_words, plus_minus


def short_text(result: SearchResult, path: str) -> str:
    """One line: verdict, metric of the best plan, its parameters, the folder of the run."""
    best = _named(result, "best")
    setting = result.setting
    measured = "not confirmed"
    if best is not None:
        measured = f"{setting.metric_words} {best.metric_mean:.3f} ± {best.metric_std_error:.3f}"
    verdict = "no verdict" if result.verdict.label == "none" else result.verdict.label
    verdict += ", nothing learned" if is_by_chance(result) else ""
    return f"Result({verdict} · {measured} · {result.best.trainable_params:,} params · {path})"


def short_html(result: SearchResult, path: str, words: PartWords) -> str:
    """The answer, the confirmed plans as a table, and the folder, escaped."""
    return render(
        "summary.html",
        sentence=answer_of(result, words).title,
        metric=result.setting.metric_words,
        has_test=bool(result.test),
        rows=list(_shown_rows(result, words)),
        path=path,
    )


def leaderboard(result: SearchResult, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row per plan: the confirmed ones first, best metric first, then the others by their last rung.

    `metric` and `loss` are those of the split in `split`: confirm for confirmed plans, else search, whose
    numbers are no results. `answers` names what a plan is: best, smallest, baseline. The untrained model has
    no `learning_rate` (None).
    """
    arms, test = arm_names(result), {record.plan: record.metric_mean for record in result.test}
    sign = 1 if result.setting.greater_is_better else -1
    confirmed = {record.plan: record for record in reversed(result.confirmations)}
    rows = [
        {
            **_plan_columns(plan, arms.get(plan, record.name), result, labels),
            "split": record.split,
            "metric": record.metric_mean,
            "metric_std_error": record.metric_std_error,
            "loss": record.mean_loss,
            "n_seeds": len(record.seeds),
            "test_metric": test.get(plan, math.nan),
        }
        for plan, record in sorted(confirmed.items(), key=lambda item: -sign * item[1].metric_mean)
    ]
    for arm, run in proxies(result, arms):
        if run.plan not in confirmed:
            rows.append(
                {
                    **_plan_columns(run.plan, arm, result, labels),
                    "split": run.fidelity.split,
                    "metric": run.metric,
                    "metric_std_error": None,
                    "loss": run.loss,
                    "n_seeds": 1,
                    "test_metric": math.nan,
                }
            )
    return rows


def _plan_columns(plan: Plan, arm: str, result: SearchResult, labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "plan_id": plan.digest,
        "answers": ", ".join(name for name in ANSWERS if getattr(result, name) == plan),
        "arm": arm or NO_ARM,
        "plan": plan_words(plan, labels, head=no_adapters(result)),
        "trainable_params": plan.trainable_params,
        "learning_rate": None if is_untrained(result, plan) else plan.learning_rate,
    }


def _shown_rows(result: SearchResult, words: PartWords) -> Iterator[dict[str, Any]]:
    test = {record.plan: record for record in result.test}
    for plan in dict.fromkeys(record.plan for record in result.confirmations):
        records = [record for record in result.confirmations if record.plan == plan]
        names = dict.fromkeys(record.name for record in records)
        yield {
            "names": ", ".join(smallest_mark(result) if name == "smallest" else name for name in names),
            "plan": plan_words(plan, words.labels, head=no_adapters(result)),
            "params": plan.trainable_params,
            "rate": NOTHING if is_untrained(result, plan) else rate(plan.learning_rate),
            "confirm": _number(records[0], words),
            "test": _number(test.get(plan), words),
        }


def _number(record: Confirmation | None, words: PartWords) -> str:
    if record is None:
        return ""
    error = plus_minus(record.metric_std_error, words.metric_is_share)
    return f"{metric(record.metric_mean, words.metric_is_share)} {error}"


def _named(result: SearchResult, name: str) -> Confirmation | None:
    plan = getattr(result, name)
    return next((record for record in result.confirmations if record.plan == plan), None)
