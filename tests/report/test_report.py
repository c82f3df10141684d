"""The report against independent parsers: json, pandas, html.parser."""

from __future__ import annotations

import io
import json
import re
from dataclasses import fields, replace

import pandas as pd
import pytest
from toys.pages import Page
from toys.results import (
    BASELINE,
    BEST,
    EVIL,
    FIFTH,
    RANKS,
    SLOW,
    WORDS,
    toy_result,
    with_sizes,
)

from autopeft import report
from autopeft.report.formatting import metric, plus_minus
from autopeft.types import SearchSoFar


@pytest.fixture
def result():
    return with_sizes(toy_result())


@pytest.fixture
def page(result):
    return Page(report.report_html(result, words=WORDS))


def rows_of(markdown, column):
    """The table of a Markdown text that has a column of that name: heading -> texts."""
    for table in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE):
        first, _, *rows = ([cell.strip() for cell in line.split(" | ")] for line in table.splitlines())
        first, *rows = ([cell.strip("| ") for cell in row] for row in (first, *rows))
        if column in first:
            return dict(zip(first, zip(*rows, strict=True), strict=True))
    raise AssertionError(column)


def texts(cells):
    return [" ".join(cell.split()) for cell in cells]


def test_the_table_of_full_runs_has_the_numbers_of_the_record(result, page):
    table = page.columns("difference from the default")
    plans = ("LoRA of rank 2–13 on 7 modules", "LoRA of rank 4 on all linear layers", "IA³ on k")
    assert table["plan"] == tuple(map("".join, zip(("best", "baseline", "finalist"), plans, strict=True)))
    assert texts(table["accuracy on test"]) == ["94.8 % ± 0.2", "93.6 % ± 0.2", "–"]
    assert texts(table["accuracy on confirm"]) == ["95.4 % ± 0.2", "94.0 % ± 0.2", "95.1 % ± 0.2"]
    assert texts(table["difference from the default"]) == ["+1.4 points +0.6 to +2.2", "–", "–"]
    assert table["adapter parameters"] == ("7,296", "9,900", "128")
    assert texts(table["training time"]) == ["2.5 min"] * 3  # 150 s
    text = rows_of(report.report_md(result, words=WORDS), "difference from the default")
    assert text["adapter parameters"] == table["adapter parameters"]
    assert text["difference from the default"] == ("+1.4 points (+0.6 to +2.2)", "–", "–")


def test_the_table_of_smaller_budgets_has_the_numbers_of_the_record(result, page):
    table = page.columns("difference from the best plan")
    assert [texts(cells) for cells in table.values()] == [
        ["LoRA of rank 4 on q and v in the last of 2 layers"],
        ["1/5"],
        ["1,024"],
        ["94.3 %"],
        ["−1.1 points −2.0 to −0.2"],
        ["61 s"],
    ]


def test_the_stages_of_the_cost_add_up_to_the_whole(page):
    table = page.columns("time in R")
    seconds = dict(zip(table["stage"], table["time in R"], strict=True))
    assert seconds == {
        "sensitivity scores": "0.04",  # 1.9 / 50
        "short runs": "0.62",
        "full runs": "3.00",
        "test split": "0.04",
        "total": "3.70",
        "of which smaller budgets": "1.22",
    }


def test_result_json_has_the_numbers_of_the_record(result):
    answer = report.result_json(result)
    assert (answer["schema_version"], answer["status"], answer["short_steps"]) == (3, "complete", 75)
    assert answer["best"]["trainable_params"] == 7_296 and answer["best"]["metric_mean"] == 0.954
    assert answer["best"]["share_of_base"] == pytest.approx(7_296 / 1_234_567)
    assert len(answer["best"]["plan"]["adapters"]) == len(RANKS)
    assert answer["budget"]["max_trainable_params"] == 10_000
    assert answer["baseline"]["name"] == "baseline: LoRA on all linear layers"
    verdict = answer["verdict"]
    assert (verdict["label"], verdict["mean_difference"]) == ("better", 0.014)
    assert verdict["interval_95"] == [0.006, 0.022]
    assert answer["cost"]["total_full_runs"] == 184.9 / 50
    tests = [answer["test"][name]["metric_mean"] for name in ("best", "baseline")]
    assert tests == [0.948, 0.936]
    assert [run["name"] for run in answer["full_runs"]] == ["best", "baseline", "ia3/k"]
    (size,) = answer["sizes"]
    assert (size["plan_id"], size["mean_difference"]) == (FIFTH.digest, -0.011)


def test_result_json_has_no_nan(result):
    broken = replace(
        result, full_runs=(replace(result.full_runs[0], mean_loss=float("nan")), *result.full_runs[1:])
    )
    answer = report.result_json(broken)
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert answer["full_runs"][0]["mean_loss"] is None


def test_trials_csv_equals_the_measurements(result):
    table = pd.read_csv(io.StringIO(report.trials_csv(result)), dtype=str)
    for row, run in zip(table.itertuples(), result.measurements, strict=True):
        assert row.plan_id == run.plan.digest
        seen = run.fidelity
        assert (row.split, row.status, int(row.seed)) == (seen.split, run.status.value, seen.seed)
        assert run.loss is None if pd.isna(row.loss) else float(row.loss) == run.loss
        assert (float(row.train_seconds), int(row.train_steps)) == (run.train_seconds, seen.train_steps)
    assert list(table.arm[:4]) == ["baseline: LoRA on all linear layers", "lora/top", "ia3/k", "lora/all"]
    assert set(table.arm[-2:]) == {"lora/q+v in the last layers"} and table.trial[-2:].isna().all()
    unproposed = pd.read_csv(io.StringIO(report.trials_csv(replace(result, proposals=()))))
    assert set(unproposed.arm) == {
        *("best", "baseline", "ia3/k", "smaller budget", "lora/q+v in the last layers")
    }


def test_sensitivity_csv_has_one_column_per_score(result):
    table = pd.read_csv(io.StringIO(report.sensitivity_csv(result.targets, result.scores)), dtype=str)
    assert tuple(float(value) for value in table.gradient) == result.scores[0].values
    assert table.layer.isna().sum() == 1


def test_names_of_others_stay_text_and_the_page_loads_nothing(result):
    html = report.report_html(result, words=WORDS)
    page = Page(html)
    assert EVIL not in html and page.tags.count("script") == 1
    assert page.links == []
    assert not re.search(r"https?://(?!www\.w3\.org)", html)
    assert EVIL.replace("<", "&lt;") in report.report_md(result, words=WORDS).replace("\\", "")


def test_the_rank_map_has_every_adapter(page):
    for target, rank in RANKS.items():
        shown = next(text for title, text in page.cells.items() if f"{target}: {rank}" in title)
        assert str(rank) in shown
    assert page.cells["h.0.k: ·"] == "·"


def test_the_shares_of_a_score_add_up_to_a_hundred(page):
    columns = page.columns("norm")
    assert columns.pop("layer") == ("1", "0", "other")
    shares = [float(text) for cells in columns.values() for text in cells if text]
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_the_leaderboard_has_full_runs_first_and_each_plan_once(result):
    rows = report.leaderboard(result, WORDS.labels)
    plans = [BEST, SLOW, BASELINE, FIFTH]
    assert [row["plan_id"] for row in rows] == [plan.digest for plan in plans]
    assert [row["split"] for row in rows] == ["confirm"] * 3 + ["search"]
    assert [row["metric"] for row in rows] == [0.954, 0.951, 0.94, 0.88]
    assert [row["answers"] for row in rows] == ["best", "", "baseline", ""]


def test_the_page_of_an_unfinished_run_needs_no_answer(result):
    facts = {field.name: getattr(result, field.name) for field in fields(SearchSoFar)}
    search = SearchSoFar(**facts | {"measurements": result.measurements[:6]})
    status = "running: 2 of 3 full runs; nothing is judged yet"
    page = report.report_html(search, words=WORDS, status=status)
    assert "location.reload()" in page
    assert "location.reload()" not in report.report_html(result, words=WORDS)
    full, short = Page(page).all_columns("source")
    assert full["plan"] == ("LoRA of rank 2–13 on 7 modules", "LoRA of rank 4 on all linear layers")
    assert texts(short["loss"]) == ["0.300", "0.350", "0.410"]


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0.000123, 0.0000045, "0.000123 ± 0.0000045"),
        (0.0004, 0.0002, "0.0004 ± 0.0002"),
        (0.0123, 0.0021, "0.012 ± 0.002"),
        (3.2e-9, 4e-10, "3.2e-9 ± 4e-10"),
    ],
)
def test_a_small_loss_keeps_its_digits(value, error, shown):
    """Each number reads back within the rounding of its digits."""
    assert f"{metric(value, False)} {plus_minus(error, False)}" == shown
    assert float(metric(value, False)) == pytest.approx(value, rel=0.05)
