"""The charts against the data: places are read from the SVG through its own labelled ticks."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from toys.results import BASELINE, BEST, HEAD, SMALLEST, WORDS, toy_result, with_head

from autopeft import report
from autopeft.report import Drawing
from autopeft.report.charts.canvas import spread
from autopeft.report.page import drawn

SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
UNITS = {"": 1, "k": 1e3, "M": 1e6}
PLANS = (BASELINE, BEST, SMALLEST)


@pytest.fixture(scope="module")
def result():
    return with_head(toy_result())


@pytest.fixture(scope="module")
def charts(result):
    return drawn(result, WORDS)


def tree(svg):
    return ElementTree.fromstring(
        str(svg).replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" xmlns:xlink="{LINK[1:-5]}" ', 1)
    )


def number(text):
    digits, _, unit = text.replace("\N{MINUS SIGN}", "-").partition(" ")
    return float(digits) * UNITS[unit]


def axis(root, name, *, log=False):
    """A function from the pixels of an axis to its values, fitted to the labelled ticks."""
    key = name[0]
    ticks = [
        (t.find(f".//{SVG}use"), t.find(f".//{SVG}text"))
        for t in root.iter(f"{SVG}g")
        if t.get("class") == name
    ]
    pairs = [(float(use.get(key)), number(text.text)) for use, text in ticks if text is not None]
    pixels, values = zip(*pairs, strict=True)
    assert len(pairs) >= 2
    slope, start = np.polyfit(pixels, np.log(values) if log else values, 1)
    line = lambda pixel: slope * float(pixel) + start  # noqa: E731 - two forms of one expression
    return (lambda pixel: math.exp(line(pixel))) if log else line


def place(root, key):
    """The pixels of the marker in the group with an id."""
    (group,) = (g for g in root.iter(f"{SVG}g") if g.get("id") == key)
    use = group.find(f".//{SVG}use")
    return float(use.get("x")), float(use.get("y"))


def numbers_of(root, key):
    (group,) = (g for g in root.iter(f"{SVG}g") if g.get("id") == key)
    points = re.findall(r"(-?[\d.]+) (-?[\d.]+)", group.find(f".//{SVG}path").get("d"))
    return [(float(x), float(y)) for x, y in points]


def test_every_confirmed_plan_stands_at_its_parameters_and_metric(charts, result):
    root = tree(charts.score)
    x, y = axis(root, "xtick", log=True), axis(root, "ytick")
    for record in result.confirmations[:3]:
        left, top = place(root, f"score-{record.plan.digest}")
        assert x(left) == pytest.approx(record.plan.trainable_params, rel=1e-3)
        assert y(top) == pytest.approx(100 * record.metric_mean, abs=0.01)


def test_intervals_reach_1_96_standard_errors_to_both_sides(charts, result):
    root = tree(charts.score)
    x, y = axis(root, "xtick", log=True), axis(root, "ytick")
    bars = [
        sorted(((float(a), float(b)), (float(c), float(d))), key=lambda point: -point[1])
        for path in root.iter(f"{SVG}path")
        for a, b, c, d in re.findall(r"^M ([\d.]+) ([\d.]+)\s+L ([\d.]+) ([\d.]+)\s*$", path.get("d"))
        if a == c and path.get("style", "").count("--g")
    ]
    seen = {round(x(low[0])): (y(low[1]), y(high[1])) for low, high in bars}
    for record in result.confirmations[:3]:
        half = 100 * 1.96 * record.metric_std_error
        low, high = seen[record.plan.trainable_params]
        assert (low, high) == pytest.approx(
            (100 * record.metric_mean - half, 100 * record.metric_mean + half), abs=0.02
        )


def test_budget_and_head_are_lines_at_their_numbers(charts, result):
    root = tree(charts.score)
    ((left, _), (also_left, _)) = numbers_of(root, "score-budget")
    assert left == also_left
    assert axis(root, "xtick", log=True)(left) == pytest.approx(10_000, rel=1e-3)
    root = tree(Drawing(with_head_at(result, 0.91), WORDS).score().svg())
    ((_, top), (_, also_top)) = numbers_of(root, "score-head")
    assert top == also_top and axis(root, "ytick")(top) == pytest.approx(91, abs=0.01)


def with_head_at(result, mean):
    """The result with another confirmed metric of the head alone; the others lie from 93.5 to 96 %."""
    moved = (replace(r, metric_mean=mean) if not r.plan.adapters else r for r in result.confirmations)
    return replace(result, confirmations=tuple(moved))


def test_a_head_far_below_is_told_at_the_edge_and_does_not_squeeze_the_others(result):
    sheet = Drawing(with_head_at(result, 0.4), WORDS).score()
    low, high = sheet.axes.get_ylim()
    assert 0.92 < low < 0.94 and 0.955 < high < 0.97
    assert "↓ head alone: 40.0 %" in [text.get_text() for text in sheet.axes.texts]
    assert ("head alone", "0", "40.0 %") in [row[:3] for row in sheet.rows]


def test_the_front_joins_the_plans_that_no_smaller_one_equals(charts):
    root = tree(charts.score)
    corners = numbers_of(root, "score-front")
    # By size: 128 parameters 95.1 %, 7,296 95.4 %, 9,900 94.0 %; the last is beaten by both.
    assert corners[0] == pytest.approx(place(root, f"score-{SMALLEST.digest}"))
    assert corners[-1] == pytest.approx(place(root, f"score-{BEST.digest}"))


def test_every_seed_of_every_plan_is_drawn(charts):
    root = tree(charts.seeds)
    y = axis(root, "ytick")
    for record in toy_result().confirmations:  # without the head, which is far off
        for seed, value in zip(record.seeds, record.metrics, strict=True):
            _, top = place(root, f"seeds-{record.plan.digest}-{seed}")
            assert y(top) == pytest.approx(100 * value, abs=0.01)


def test_short_runs_stand_at_their_rate_and_loss(charts, result):
    by_rate, by_rung = tree(charts.rates), tree(charts.rungs)
    for run in result.measurements[:8]:
        key = f"{run.plan.digest}-{run.fidelity.train_steps}"
        if run.loss is None:
            assert key not in charts.rates and key not in charts.rungs
            continue
        left, top = place(by_rate, f"rates-{key}")
        assert axis(by_rate, "xtick", log=True)(left) == pytest.approx(run.plan.learning_rate, rel=1e-3)
        assert axis(by_rate, "ytick")(top) == pytest.approx(run.loss, abs=1e-3)
        assert axis(by_rung, "ytick")(place(by_rung, f"rungs-{key}")[1]) == pytest.approx(run.loss, abs=1e-3)


def test_a_plan_that_stopped_has_another_mark_than_one_that_went_on(charts):
    root = tree(charts.rungs)

    def mark(key):
        (group,) = (g for g in root.iter(f"{SVG}g") if g.get("id") == key)
        return group.find(f".//{SVG}use").get(LINK)

    stopped, went_on = (mark(f"rungs-{plan.digest}-30") for plan in (HEAD, BEST))
    assert stopped != went_on == mark(f"rungs-{BEST.digest}-75")


def test_the_difference_has_its_interval_and_margin_on_a_labelled_axis(charts):
    root = tree(charts.difference)
    x = axis(root, "xtick")
    assert x(place(root, "difference-mean")[0]) == pytest.approx(1.4, abs=0.01)
    # The interval, the only solid line in the ink of the page, goes from 0.6 to 2.2 points.
    lines = [
        p.get("d")
        for p in root.iter(f"{SVG}path")
        if "stroke: currentColor; stroke-width: 2.2" in p.get("style", "")
    ]
    ends = [float(left) for left in re.findall(r"([\d.]+) [\d.]+", lines[0])]
    assert [x(end) for end in ends] == pytest.approx([0.6, 2.2], abs=0.01)
    band = next(p for p in root.iter(f"{SVG}path") if "--band" in p.get("style", "")).get("d")
    sides = [x(left) for left in re.findall(r"([\d.]+) [\d.]+", band)]
    assert (min(sides), max(sides)) == pytest.approx((-1, 1), abs=0.01)


def test_charts_take_every_colour_and_the_font_from_the_page(charts):
    for svg in (charts.score, charts.seeds, charts.difference, charts.rates, charts.rungs):
        assert not re.search(r"#[0-9a-fA-F]{6}|DejaVu|font:", svg)
        assert 'role="img"' in svg and "aria-label=" in svg and "<title>" in svg


def test_the_page_is_the_same_to_the_byte_and_its_ids_are_unique(result):
    page = report.report_html(result, words=WORDS)
    assert page == report.report_html(with_head(toy_result()), words=WORDS)
    assert len(page.encode()) < 1_000_000
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page):
        assert (target[0] or target[1]) in ids


def test_without_a_confirmation_the_first_chart_shows_short_runs(result):
    empty = {"label": "none", "mean_difference": None, "interval_95": None, "fidelity": "none"}
    unconfirmed = replace(result, confirmations=(), test=(), verdict=replace(result.verdict, **empty))
    charts = drawn(unconfirmed, WORDS)
    assert (charts.seeds, charts.difference) == (None, None)
    root = tree(charts.score)
    for plan, loss in zip(PLANS, (0.9, 0.8, 0.85), strict=True):
        _, top = place(root, f"score-{plan.digest}")
        assert axis(root, "ytick")(top) == pytest.approx(loss, abs=1e-3)


def test_the_key_has_the_groups_that_are_drawn(result):
    """The head has points in the charts of the trial runs; the untrained model has none, and no key."""
    keys = [group.label for group in drawn(result, WORDS).legend]
    assert keys == ["default LoRA", "head alone", "searched LoRA", "IA³"]
    bare = replace(result, confirmations=result.confirmations[:3])
    bare = replace(bare, setting=replace(result.setting, head_params=0))
    charts = drawn(bare, WORDS)
    assert "untrained model" not in [group.label for group in charts.legend]
    assert {group.label for group in charts.score_legend} == {"default LoRA", "IA³", "searched LoRA"}


@pytest.mark.parametrize(("mean", "ends"), [(0.01, (0, 3.94)), (0.99, (96.06, 100)), (0.5, (47.06, 52.94))])
def test_intervals_of_shares_end_at_0_and_100_percent(result, mean, ends):
    records = [replace(r, metric_mean=mean, metric_std_error=0.015) for r in result.confirmations[:3]]
    figure = Drawing(replace(result, confirmations=tuple(records)), WORDS).score().picture()
    (axes,) = figure.axes
    bars = [c for c in axes.collections if hasattr(c, "get_segments")]
    for bar in bars:
        ((_, low), (_, high)) = bar.get_segments()[0]
        assert (100 * low, 100 * high) == pytest.approx(ends)
    figure.draw_without_rendering()
    numbers = [float(text.get_text()) for text in axes.get_yticklabels() if text.get_text()]
    assert len(bars) == 3 and numbers and min(numbers) >= 0 and max(numbers) <= 100


def test_a_run_of_one_plan_draws_nothing_and_says_so(result):
    alone = replace(result, measurements=result.measurements[3:4], confirmations=(), test=(), proposals=())
    charts = drawn(alone, WORDS)
    assert [charts.score, charts.seeds, charts.rates, charts.rungs] == [None] * 4
    assert "nothing to draw" in report.report_html(alone, words=WORDS)


@pytest.mark.parametrize("seed", range(5))
def test_names_are_moved_apart_as_little_as_it_takes(seed):
    """The least-squares answer is isotonic regression of the heights less their place in the order."""
    heights = np.sort(np.random.default_rng(seed).uniform(0, 60, 8))
    order = 14.0 * np.arange(8)
    expected = IsotonicRegression().fit_transform(np.arange(8), heights - order) + order
    assert spread(list(heights), gap=14.0) == pytest.approx(list(expected))
