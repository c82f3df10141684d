"""The report against independent parsers: json, pandas, html.parser."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
from toys.pages import Page
from toys.results import BASELINE, EVIL, RANKS, SMALLEST, WORDS, toy_result

from autopeft import report
from autopeft.extension import discover
from autopeft.report import PartWords
from autopeft.report.words import metric
from autopeft.tasks.parts.token_metrics import TOKEN_METRICS


@pytest.fixture
def result():
    return toy_result()


def _unconfirmed(result):
    empty = {"label": "none", "mean_difference": None, "interval_95": None, "fidelity": "none"}
    verdict = replace(result.verdict, sentence="No verdict.", **empty)
    return replace(result, confirmations=(), test=(), verdict=verdict)


def _one_plan(result):
    only = (replace(result.confirmations[0], name="baseline"),)
    return replace(result, best=BASELINE, smallest=BASELINE, confirmations=only, test=only)


def test_result_json_has_the_documented_keys(result):
    answer = report.result_json(result, "complete")
    keys = "schema_version status base_model task metric greater_is_better budget best baseline verdict test"
    assert {*keys.split(), "proxy", "sensitivity", "cost", "environment"} <= answer.keys()
    assert answer["schema_version"] == 2 and answer["sensitivity"]["score"] == "gradient"
    assert {"plan", "trainable_params", "head_params", "share_of_base", "seeds"} <= answer["best"].keys()
    assert answer["best"]["share_of_base"] == pytest.approx(7_296 / 1_234_567)
    assert len(answer["best"]["plan"]["adapters"]) == len(RANKS)
    assert (answer["baseline"]["name"], answer["baseline"]["metric_mean"]) == ("baseline", 0.940)
    assert answer["verdict"]["interval_95"] == [0.006, 0.022]
    assert answer["test"]["smallest"]["metric_mean"] == 0.9476


def test_result_json_never_says_nan(result):
    broken = replace(result, proxy=replace(result.proxy, rank_correlation=float("nan")))
    answer = report.result_json(broken, "complete")
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert answer["proxy"]["rank_correlation"] is None


@pytest.mark.parametrize("is_best", [False, True])
def test_without_confirmation_a_report_names_no_smallest_plan(result, is_best):
    """Also in a result of an earlier version, which has an unproven plan beside the best."""
    unconfirmed = _unconfirmed(result)
    unconfirmed = replace(unconfirmed, smallest=unconfirmed.best) if is_best else unconfirmed
    for render in (report.report_md, report.report_html):
        assert "smallest" not in render(unconfirmed, words=WORDS).replace("no smaller", "")
        assert "smallest" in render(result, words=WORDS)
    assert Page(report.report_html(unconfirmed, words=WORDS)).columns("memory")["plan"][:2] == (
        "baselinedefault LoRA",
        "bestsearched LoRA",
    )


def test_a_result_without_confirmation_has_no_numbers_to_quote(result):
    answer = report.result_json(_unconfirmed(result), "stopped")
    assert (answer["best"]["metric_mean"], answer["best"]["seeds"], answer["test"]) == (None, [], None)


def test_trials_csv_equals_the_measurements(result):
    table = pd.read_csv(io.StringIO(report.trials_csv(result)), dtype=str)
    assert ",".join(table.columns) == (
        "trial,arm,plan_id,methods,ranks,n_sites,trainable_params,learning_rate,rung,seed,status,split,"
        "metric,loss,train_steps,train_examples,train_seconds,eval_examples,eval_seconds,peak_bytes,"
        "learning_rate_position,overhead_seconds,trained_steps"
    )
    for row, run in zip(table.itertuples(), result.measurements, strict=True):
        assert row.plan_id == run.plan.digest
        seen = run.fidelity
        assert (row.split, row.status, int(row.seed)) == (seen.split, run.status.value, seen.seed)
        assert run.loss is None if pd.isna(row.loss) else float(row.loss) == run.loss
        assert (float(row.train_seconds), int(row.trained_steps)) == (run.train_seconds, run.trained_steps)
    assert list(table.rung.fillna("")) == ["0"] * 5 + ["1"] * 3 + [""] * 7
    assert list(table.arm[:3]) == ["baseline", "lora/top", "ia3/all"]
    unproposed = pd.read_csv(io.StringIO(report.trials_csv(replace(result, proposals=()))))
    assert set(unproposed.arm) == {"confirm"} and unproposed.trial.isna().all()


def test_the_table_of_costs_has_a_total_where_the_result_has_one(result):
    older = replace(result, cost=replace(result.cost, total_seconds=None, total_full_runs=None))
    for seen, expected in ((result, ("12.1 min", "14.50")), (older, None)):
        html = Page(report.report_html(seen, words=WORDS)).columns("in R")
        rows = dict(zip(html["stage"], zip(html["time"], html["in R"], strict=True), strict=True))
        assert rows.get("in all, test included") == expected
        line = f"| in all, test included | {' | '.join(expected or ('12.1 min', '14.50'))} |"
        assert (line in report.report_md(seen, words=WORDS)) == (expected is not None)


def test_sensitivity_csv_has_one_column_per_score(result):
    table = pd.read_csv(io.StringIO(report.sensitivity_csv(result.sites, result.scores)), dtype=str)
    assert ",".join(table.columns) == "site,layer,role,in_features,out_features,gradient,uniform"
    assert tuple(float(value) for value in table.gradient) == result.scores[0].values
    assert table.layer.isna().sum() == 1


def test_the_page_loads_nothing_and_escapes_every_name(result):
    html = report.report_html(result, words=WORDS)
    page = Page(html)
    assert all(link[0] == "#" for link in page.links)
    assert page.tags.count("script") == 1 and not {"img", "link", "iframe", "object"} & set(page.tags)
    own = html.replace("http://www.w3.org/", "")  # names of namespaces
    assert not re.search(r"url\((?!#)|@import|https?:", own)
    assert "default-src 'none'" in html
    assert any(EVIL in text for text in page.texts)


def test_every_rank_of_the_best_plan_is_in_its_cell(result):
    cells = Page(report.report_html(result, words=WORDS)).cells
    for site, rank in RANKS.items():
        [shown] = [text for title, text in cells.items() if f"{site}: {rank}" in title]
        assert str(rank) in shown.split(", ")
    assert cells["h.1.o: 13; h.1.extra.o: 7"] == "13, 7"


def test_a_method_without_rank_shows_its_name(result):
    cells = Page(report.report_html(replace(result, best=SMALLEST), words=WORDS)).cells
    # Both layers are the same and share a row.
    assert (cells["h.0.k: IA³ … h.1.k: IA³"], cells["h.0.q: · … h.1.q: ·"]) == ("IA³", "·")


def test_the_shares_of_a_score_add_up_to_a_hundred(result):
    columns = Page(report.report_html(result, words=WORDS)).columns("norm")
    assert columns.pop("layer") == ("1", "0", "outside")
    shares = [float(text) for texts in columns.values() for text in texts if text]
    assert sum(shares) == pytest.approx(100, abs=0.5)


@pytest.mark.parametrize("greater", [True, False])
def test_the_leaderboard_is_ordered_by_the_metric(result, greater):
    turned = replace(result, setting=replace(result.setting, greater_is_better=greater))
    shown = Page(report.report_html(turned, words=WORDS)).columns("worst seed")["accuracy"]
    expected = ["95.4 % ± 0.2", "95.1 % ± 0.2", "94.0 % ± 0.2"]
    assert list(shown) == (expected if greater else expected[::-1])


def test_every_metric_but_losses_errors_and_correlations_is_shown_in_percent():
    of_tasks = {name: task for task in discover("autopeft.tasks").values() for name in task.metrics}
    parts = {**of_tasks, **discover("autopeft.metrics"), **TOKEN_METRICS}
    is_share = {name: part.is_share for name, part in parts.items()}
    no_shares = {"loss", "perplexity", "matthews", "pearson", "spearman", "pearson-spearman"}
    no_shares |= {"mean-absolute-error", "mean-squared-error"}
    shown = {name: metric(0.532, is_share[name]) for name in is_share}
    assert shown == {name: "0.532" if name in no_shares else "53.2 %" for name in is_share}
    assert "exact-match" in is_share


@pytest.mark.parametrize(
    ("is_share", "greater", "shown"),
    [
        (True, True, "+1.4 points, 95 % interval +0.6 points to +2.2 points"),
        (False, True, "+0.014, 95 % interval +0.006 to +0.022"),
        (False, False, "+0.014, 95 % interval +0.006 to +0.022 (plus: the best plan has the lower accuracy)"),
    ],
)
def test_difference_has_the_unit_of_the_metric_and_says_what_plus_means(result, is_share, greater, shown):
    turned = replace(result, setting=replace(result.setting, greater_is_better=greater))
    words = replace(WORDS, metric_is_share=is_share)
    assert f"Difference {shown}, at full" in report.report_html(turned, words=words)
    assert f"difference {shown}, margin" in report.report_md(turned, words=words)


def test_method_that_is_not_installed_keeps_its_name(result):
    text = report.report_md(result, words=PartWords())
    assert "| lora r 2–13 on 7 modules **best** |" in text and "LoRA r" not in text


def test_a_failure_is_listed_with_one_line(result):
    text = report.report_md(result, words=WORDS)
    assert "loss is nan at step 7 of &lt;script>" in text
    assert "Traceback" not in text + report.report_html(result, words=WORDS)


@pytest.mark.parametrize("change", [_unconfirmed, _one_plan, lambda r: replace(r, test=())])
def test_an_unusual_result_renders_and_a_stopped_run_says_so(result, change):
    changed = change(result)
    page, text = (
        report.report_html(changed, words=WORDS, status="stopped"),
        report.report_md(changed, words=WORDS, status="stopped"),
    )
    for part in (changed.verdict.sentence.replace("'", "&#39;"), "This run is not complete: stopped"):
        assert part in page and part in text
    assert ("The test split was read once" in page) == bool(changed.test)


def test_markdown_tables_are_rectangular(result):
    text = report.report_md(result, words=WORDS)
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) >= 8
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_write_leaves_five_files_that_agree(result, tmp_path):
    report.write(result, tmp_path, words=WORDS)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["report.html", "report.md", "result.json", "sensitivity.csv", "trials.csv"]
    answer = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert answer == report.result_json(result, "complete")


def test_the_lines_that_load_a_gguf_file_name_its_folder_and_the_file(result):
    """As `transformers` takes it: the path of the file itself is no model to it."""
    setting = replace(result.setting, base_model_source="/models/small/model.Q4_1.gguf")
    text = report.report_md(replace(result, setting=setting), words=WORDS)
    assert 'name = "/models/small"' in text
    assert '.from_pretrained(name, gguf_file="model.Q4_1.gguf"' in text
