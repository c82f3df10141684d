"""A result in a few words, as a small HTML table, and as rows of a leaderboard, for Python and notebooks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from autopeft.records import Plan, SearchResult
from autopeft.report.answer import answer_of
from autopeft.report.formatting import PartWords
from autopeft.report.plan_names import is_untrained, marks_of, no_adapters, plan_words
from autopeft.report.rendering import render
from autopeft.report.rows import arms, full_rows, record_of, short_runs


def short_text(result: SearchResult, path: str) -> str:
    """One line: verdict, metric of the best plan, its parameters, the folder of the run."""
    best = record_of(result.full_runs, result.best)
    assert best is not None, "the best plan has a full run"
    measured = f"{result.setting.metric_words} {best.metric_mean:.3f} ± {best.metric_std_error:.3f}"
    return f"Result({result.verdict.label} · {measured} · {result.best.trainable_params:,} params · {path})"


def short_html(result: SearchResult, path: str, words: PartWords) -> str:
    """The answer, the full runs as a table, and the folder, escaped."""
    return render(
        "summary.html",
        answer=answer_of(result, words),
        metric=result.setting.metric_words,
        is_share=words.metric_is_share,
        rows=[
            (row, plan_words(row.plan, result.sites, words.labels, head=no_adapters(result)))
            for row in full_rows(result)
        ],
        path=path,
    )


def leaderboard(result: SearchResult, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row per plan: those with a full run first, best metric first, then the others by their short runs.

    `metric` and `loss` are those of the split in `split`: confirm for full runs, search for short ones, whose
    numbers are no results. The untrained model has no `learning_rate` (None).
    """
    sign = 1 if result.setting.greater_is_better else -1
    full = sorted(result.full_runs, key=lambda record: -sign * record.metric_mean)
    finished = {record.plan for record in full}
    proposed_by, rows = arms(result), []
    for record in full:
        test = record_of(result.test, record.plan)
        rows.append(
            {
                **_plan_columns(record.plan, proposed_by[record.plan], result, labels),
                "split": record.split,
                "metric": record.metric_mean,
                "metric_std_error": record.metric_std_error,
                "loss": record.mean_loss,
                "n_seeds": len(record.seeds),
                "test_metric": math.nan if test is None else test.metric_mean,
            }
        )
    for run in short_runs(result):
        if run.plan not in finished:
            rows.append(
                {
                    **_plan_columns(run.plan, proposed_by[run.plan], result, labels),
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
        "answers": marks_of(result, plan),
        "arm": arm,
        "plan": plan_words(plan, result.sites, labels, head=no_adapters(result)),
        "trainable_params": plan.trainable_params,
        "learning_rate": None if is_untrained(result, plan) else plan.learning_rate,
    }
