"""The report against independent parsers: json, pandas, html.parser."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pandas as pd
import pytest

from autopeft import records as rec
from autopeft import report
from autopeft.records import Adapter, Confirmation, Fidelity, Measurement, Plan, Site, Status

EVIL = "<script>alert('x')</script>"
ROLES = {"q": (64, 64), "k": (64, 64), "v": (64, 64), "o": (64, 64), "up": (64, 256), "down": (256, 64)}


def _site(name, layer, role, n_in, n_out, kind="linear"):
    sizes = {"in_features": n_in, "out_features": n_out}
    return Site(name=name, layer=layer, role=role, kind=kind, has_bias=True, **sizes)


def _plan(ranks, rate, n_params, method="lora"):
    adapters = tuple(Adapter(method=method, site=s, rank=r, scale=2.0) for s, r in ranks.items())
    return Plan(adapters=adapters, learning_rate=rate, trainable_params=n_params)


def _run(plan, split, steps, seed, loss, metric, error=None):
    sizes = {"train_steps": steps, "train_examples": 32 * steps, "eval_examples": 500}
    status = Status.FAIL if error else Status.COMPLETE
    spent = {"train_seconds": steps / 7, "eval_seconds": 0.3, "peak_bytes": 10**6}
    fidelity = Fidelity(split=split, seed=seed, **sizes)
    return Measurement(
        plan=plan, fidelity=fidelity, status=status, loss=loss, metric=metric, error=error, **spent
    )


def _confirmed(name, plan, mean, split):
    metrics = (mean - 0.004, mean, mean + 0.004)
    numbers = {"metric_mean": mean, "metric_std_error": 0.0023, "metrics": metrics, "mean_loss": 0.2}
    return Confirmation(
        name=name, plan=plan, split=split, seeds=(101, 102, 103), train_seconds=150.0, **numbers
    )


SITES = (
    *(_site(f"h.{n}.{role}", n, role, *shape) for n in (0, 1) for role, shape in ROLES.items()),
    *(_site(f"h.{n}.norm{i}", n, "norm", 64, 64, kind="norm") for n in (0, 1) for i in (1, 2)),
    _site("h.1.extra.o", 1, "o", 64, 64),
    _site("pooler.dense", None, "dense", 64, 64),
)
RANKS = {"h.0.q": 2, "h.0.v": 3, "h.1.q": 5, "h.1.o": 13, "h.1.extra.o": 7, "h.1.up": 8, "pooler.dense": 11}
BEST = _plan(RANKS, 4e-3, 7_296)
BASELINE = _plan({s.name: 4 for s in SITES if s.kind == "linear"}, 1.5e-3, 9_900)
SMALLEST = _plan(dict.fromkeys(("h.0.k", "h.1.k"), 0), 0.025, 128, method="ia3")
HEAD = Plan(adapters=(), learning_rate=0.01, trainable_params=0)
BROKEN = replace(BEST, learning_rate=0.5)
# fmt: off
ARMS = {"baseline": BASELINE, "lora/top": BEST, "ia3/all": SMALLEST, "head": HEAD, "lora/all": BROKEN}
SETTING = rec.Setting(
    base_model=f"tiny/{EVIL}", model_type="bert", data="trec|6", task="text-classification", metric="accuracy",
    greater_is_better=True, head_params=390, full_run_steps=300, label_names=("ABBR", "DESC"),
    budget=rec.Budget(max_trainable_params=10_000, base_params=1_234_567, requested="10k"),
    splits=rec.SplitSizes(train=4_000, search=500, confirm=1_500, test=500, duplicates_removed=12),
)
VERDICT = rec.Verdict(
    label="better", mean_difference=0.014, interval_95=(0.006, 0.022), margin=0.01, fidelity="full",
    smallest_equivalent="proven",
    sentence="Better than the default LoRA by 1.4 points (0.6 to 2.2); 128 parameters are as good.",
)
MEASUREMENTS = (
    _run(BASELINE, "search", 30, 0, 0.9, 0.7),
    _run(BEST, "search", 30, 0, 0.8, 0.75),
    _run(SMALLEST, "search", 30, 0, 0.85, 0.72),
    _run(HEAD, "search", 30, 0, 1.2, 0.5),
    _run(BROKEN, "search", 30, 0, None, None, error=f"loss is nan at step 7 of {EVIL}\nTraceback, line two"),
    _run(BASELINE, "search", 75, 0, 0.41, 0.9),
    _run(BEST, "search", 75, 0, 0.1 + 0.2, 0.93),
    _run(SMALLEST, "search", 75, 0, 0.35, 0.92),
    *(_run(plan, "confirm", 300, s, 0.2, 0.95) for plan in (BEST, BASELINE) for s in (101, 102, 103)),
    _run(BEST, "test", 300, 101, 0.2, 0.948),
)
COST = rec.Cost(
    sensitivity_seconds=1.9, search_seconds=310.0, confirm_seconds=400.0, full_run_seconds=50.0, full_runs=6.2,
    examples_seen=98_000,
)
# fmt: on


@pytest.fixture
def result():
    gradient = tuple(0.001 * (1 + n) ** 2 for n in range(len(SITES)))
    scores = {"gradient": gradient, "uniform": (1.0,) * len(SITES)}
    answers = {"baseline": BASELINE, "best": BEST, "smallest": SMALLEST}
    means = {"confirm": (0.940, 0.954, 0.951), "test": (0.936, 0.948, 0.9476)}
    confirmed, tested = (
        tuple(_confirmed(n, answers[n], mean, split) for n, mean in zip(answers, means[split], strict=True))
        for split in means
    )
    return rec.SearchResult(
        spec=rec.RunSpec(),
        setting=SETTING,
        sites=SITES,
        scores=tuple(rec.SiteScores(name=name, values=values) for name, values in scores.items()),
        proposals=tuple(
            rec.Proposal(trial=n, arm=arm, source="enqueued", plan=ARMS[arm]) for n, arm in enumerate(ARMS)
        ),
        measurements=MEASUREMENTS,
        **answers,
        confirmations=confirmed,
        test=tested,
        verdict=VERDICT,
        proxy=rec.Proxy(rank_correlation=0.83, n_plans=3, rung_steps=(30, 75)),
        cost=COST,
        environment={"python": "3.13.1", "torch": "2.9.0", "cpu": "2 cores"},
    )


class _Page(HTMLParser):
    """Tags, links, texts, the titled cells, and every table as rows of texts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.texts, self.cells, self.tables = [], [], [], {}, []
        self._title, self._in_table = None, False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        self._title = dict(attrs).get("title")
        if tag == "table":
            self._in_table = True
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, text):
        self.texts.append(text)
        if self._title:
            self.cells.setdefault(self._title, text)
        if self._in_table and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += text.rstrip("\n")

    def handle_endtag(self, tag):
        self._title = None
        self._in_table = self._in_table and tag != "table"

    def columns(self, name):
        """The first table that has a column of that name: heading -> texts."""
        rows = next(rows for rows in self.tables if name in rows[0])
        return dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))


def _unconfirmed(result):
    empty = {"label": "none", "mean_difference": None, "interval_95": None, "fidelity": "none"}
    verdict = replace(result.verdict, sentence="No verdict.", **empty)
    return replace(result, confirmations=(), test=(), verdict=verdict)


def _one_plan(result):
    only = (replace(result.confirmations[0], name="baseline"),)
    return replace(result, best=BASELINE, smallest=BASELINE, confirmations=only, test=only)


def test_result_json_has_the_keys_that_the_design_fixes(result):
    answer = report.result_json(result, "complete")
    assert {
        "schema_version", "status", "base_model", "task", "metric", "greater_is_better", "budget", "best",
        "baseline", "verdict", "test", "proxy", "sensitivity", "cost", "environment",
    } <= answer.keys()  # fmt: skip
    assert answer["schema_version"] == 1
    assert {"plan", "trainable_params", "head_params", "percent", "seeds"} <= answer["best"].keys()
    assert answer["best"]["percent"] == pytest.approx(100 * 7_296 / 1_234_567)
    assert len(answer["best"]["plan"]["adapters"]) == len(RANKS)
    assert (answer["baseline"]["name"], answer["baseline"]["metric_mean"]) == ("baseline", 0.940)
    assert answer["verdict"]["interval_95"] == [0.006, 0.022]
    assert answer["test"]["smallest"]["metric_mean"] == 0.9476
    assert answer["sensitivity"]["helped"] is None


def test_result_json_never_says_nan(result):
    broken = replace(result, proxy=replace(result.proxy, rank_correlation=float("nan")))
    answer = report.result_json(broken, "complete")
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert answer["proxy"]["rank_correlation"] is None


def test_equal_plans_share_their_one_confirmation(result):
    answer = report.result_json(_one_plan(result), "complete")
    means = [answer[name]["metric_mean"] for name in ("best", "smallest", "baseline")]
    assert means == [0.940] * 3
    assert answer["test"]["best"]["metric_mean"] == 0.940


def test_a_result_without_confirmation_has_no_numbers_to_quote(result):
    answer = report.result_json(_unconfirmed(result), "stopped")
    assert (answer["best"]["metric_mean"], answer["best"]["seeds"], answer["test"]) == (None, [], None)


def test_trials_csv_equals_the_measurements(result):
    table = pd.read_csv(io.StringIO(report.trials_csv(result)), dtype=str)
    assert ",".join(table.columns) == (
        "trial,arm,plan_hash,trainable_params,learning_rate,rung,seed,status,split,metric,loss,train_steps,"
        "train_examples,train_seconds,eval_examples,eval_seconds,peak_bytes"
    )
    for row, run in zip(table.itertuples(), result.measurements, strict=True):
        assert row.plan_hash == run.plan.digest
        seen = run.fidelity
        assert (row.split, row.status, int(row.seed)) == (seen.split, run.status.value, seen.seed)
        assert run.loss is None if pd.isna(row.loss) else float(row.loss) == run.loss
        assert float(row.train_seconds) == run.train_seconds
    assert list(table.rung) == ["0"] * 5 + ["1"] * 3 + ["confirm"] * 6 + ["test"]
    assert list(table.arm[:3]) == ["baseline", "lora/top", "ia3/all"]


def test_a_plan_that_no_trial_proposed_is_marked_confirm(result):
    table = pd.read_csv(io.StringIO(report.trials_csv(replace(result, proposals=()))))
    assert set(table.arm) == {"confirm"}
    assert table.trial.isna().all()


def test_sensitivity_csv_has_one_column_per_score(result):
    table = pd.read_csv(io.StringIO(report.sensitivity_csv(result)), dtype=str)
    assert ",".join(table.columns) == "site,layer,role,in_features,out_features,gradient,uniform"
    assert tuple(float(value) for value in table.gradient) == result.scores[0].values
    assert table.layer.isna().sum() == 1


def test_the_page_loads_nothing_and_escapes_every_name(result):
    html = report.report_html(result)
    page = _Page(html)
    assert page.links == []
    assert "script" not in page.tags
    assert not re.search(r"url\(|@import|https?:", html)
    assert any(EVIL in text for text in page.texts)


def test_every_rank_of_the_best_plan_is_in_its_cell(result):
    cells = _Page(report.report_html(result)).cells
    for site, rank in RANKS.items():
        shown = [text for title, text in cells.items() if f"{site}: {rank}" in title]
        assert len(shown) == 1
        assert str(rank) in shown[0].split(", ")
    assert cells["h.1.o: 13; h.1.extra.o: 7"] == "13, 7"


def test_a_method_without_rank_shows_its_name(result):
    cells = _Page(report.report_html(replace(result, best=SMALLEST))).cells
    assert cells["h.0.k: IA³"] == "IA³"
    assert cells["h.0.q: ·"] == "·"


def test_the_shares_of_a_score_add_up_to_a_hundred(result):
    columns = _Page(report.report_html(result)).columns("norm")
    assert columns.pop("layer") == ("1", "0", "outside")
    shares = [float(text) for texts in columns.values() for text in texts if text]
    assert sum(shares) == pytest.approx(100, abs=0.5)


@pytest.mark.parametrize("greater", [True, False])
def test_the_leaderboard_is_ordered_by_the_metric(result, greater):
    turned = replace(result, setting=replace(result.setting, greater_is_better=greater))
    shown = _Page(report.report_html(turned)).columns("worst seed")["accuracy"]
    expected = ["95.4 % ± 0.2", "95.1 % ± 0.2", "94.0 % ± 0.2"]
    assert list(shown) == (expected if greater else expected[::-1])


def test_proxy_rows_are_ordered_by_rung_then_loss(result):
    board = _Page(report.report_html(result)).columns("loss")
    assert board["steps"] == ("75", "75", "75", "30")
    assert board["loss"] == ("0.300", "0.350", "0.410", "1.200")


def test_a_failure_is_listed_with_one_line(result):
    text = report.report_md(result)
    assert "loss is nan at step 7 of &lt;script>" in text
    assert "Traceback" not in text + report.report_html(result)


@pytest.mark.parametrize("change", [_unconfirmed, _one_plan, lambda r: replace(r, test=())])
def test_an_unusual_result_renders(result, change):
    changed = change(result)
    assert changed.verdict.sentence in report.report_md(changed)
    assert ("Test split" in report.report_html(changed)) == bool(changed.test)


def test_a_stopped_run_says_so_on_top(result):
    for text in (report.report_html(result, status="stopped"), report.report_md(result, status="stopped")):
        assert "This run is not complete: stopped" in text


def test_markdown_tables_are_rectangular(result):
    text = report.report_md(result)
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) >= 8
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_write_leaves_five_files_that_agree(result, tmp_path):
    report.write(result, tmp_path)
    names = {"report.md", "report.html", "trials.csv", "sensitivity.csv", "result.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    answer = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert answer == report.result_json(result, "complete")


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_on_every_shade_has_a_contrast_of_at_least_4_5(mode):
    template = (files("autopeft") / "templates" / "report.html.j2").read_text(encoding="utf-8")
    roots = re.findall(r":root \{(.*?)\}", template, flags=re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", roots[0 if mode == "light" else 1]))
    pairs = [(f"l{n}", f"t{n}") for n in range(1, 6)]
    pairs += [(f"{tone}-bg", tone) for tone in ("good", "calm", "bad", "warn")]
    pairs += [(back, text) for back in ("page", "card") for text in ("ink", "soft", "accent")]
    for back, text in pairs:
        assert _contrast(colours[back], colours[text]) >= 4.5, (back, text)


def _contrast(one, other):
    """WCAG 2.1, relative luminance."""

    def luminance(colour):
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
