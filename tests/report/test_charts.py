"""The charts against the data: places are read from the SVG through its own labelled ticks."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from toys.results import BEST, WORDS, of_language_model, toy_result, toy_run, with_sizes

from autopeft import report
from autopeft.report.charts import difference_chart, short_run_chart
from autopeft.report.table_rows import run_rows

UNITS = {"": 1, "k": 1e3, "M": 1e6}


@pytest.fixture(scope="module")
def result():
    return with_sizes(toy_result())


def short_runs(result):
    return short_run_chart(run_rows("search", result, WORDS), budget=10_000, steps=75)


def tree(svg):
    return ElementTree.fromstring(str(svg))


def number(text):
    digits, _, unit = text.replace("\N{MINUS SIGN}", "-").partition(" ")
    return float(digits) * UNITS[unit]


def axis(root, name, *, log=False):
    """A function from the pixels of an axis to its values, fitted to the labelled ticks."""
    key, shift = ("x", 0) if name == "xtick" else ("y", -4)
    ticks = [text for text in root.iter("text") if text.get("class") == name]
    pixels, values = zip(*((float(t.get(key)) + shift, number(t.text)) for t in ticks), strict=True)
    assert len(ticks) >= 2
    slope, start = np.polyfit(pixels, np.log(values) if log else values, 1)
    line = lambda pixel: slope * float(pixel) + start  # noqa: E731 - two forms of one expression
    return (lambda pixel: math.exp(line(pixel))) if log else line


def places(root):
    """The pixels of each point by its tooltip."""
    found = {}
    for group in root.iter("g"):
        for path in group.iter("path"):
            if path.get("class") == "point":
                found[group.find("title").text] = tuple(
                    map(float, re.findall(r"[\d.]+", path.get("transform")))
                )
    return found


def bars(root):
    return [
        [float(number) for number in re.findall(r"-?[\d.]+", path.get("d"))]
        for path in root.iter("path")
        if path.get("class") == "bar"
    ]


def test_short_runs_stand_at_their_parameters_and_loss(result):
    root = tree(short_runs(result).svg())
    x, y = axis(root, "xtick", log=True), axis(root, "ytick")
    runs = [run for run in result.measurements if run.fidelity.split == "search" and run.loss is not None]
    found = sorted((x(left), y(top)) for left, top in places(root).values())
    assert len(found) == len(runs) == 4
    expected = sorted((run.plan.trainable_params, run.loss) for run in runs)
    for place, (size, loss) in zip(found, expected, strict=True):
        assert place == (pytest.approx(size, rel=5e-3), pytest.approx(loss, abs=2e-3))


def test_the_budget_is_a_line_at_its_number(result):
    root = tree(short_runs(result).svg())
    (line,) = (p.get("d") for p in root.iter("path") if p.get("class") == "line")
    assert axis(root, "xtick", log=True)(re.findall(r"[\d.]+", line)[0]) == pytest.approx(10_000, rel=5e-3)
    assert {"best", "baseline", "budget"} <= {text.text for text in root.iter("text")}


def test_a_loss_far_above_stands_at_the_edge_and_is_told(result):
    runs = [
        toy_run(replace(BEST, learning_rate=n / 100), "search", 75, 0, 1 + n / 10, 0.5) for n in range(1, 8)
    ]
    far = toy_run(replace(BEST, learning_rate=0.9), "search", 75, 0, 300.0, 0.1)
    changed = replace(result, measurements=(*runs, far))
    chart = short_runs(changed)
    assert chart.n_above == 1 and chart.y.high < 3
    html = report.report_html(replace(result, measurements=(*result.measurements, *runs, far)), words=WORDS)
    assert "drawn at the upper edge: 1." in html


def test_one_short_run_draws_nothing(result):
    assert short_runs(replace(result, measurements=result.measurements[:1])) is None
    assert short_runs(of_language_model()) is not None  # the untrained model is left out


def test_the_difference_has_its_interval_and_margin(result):
    root = tree(difference_chart(result.verdict, is_share=True))
    x = axis(root, "xtick")
    (mean,) = (float(circle.get("cx")) for circle in root.iter("circle"))
    assert x(mean) == pytest.approx(1.4, abs=0.02)
    ((low, _, high, *_),) = bars(root)
    assert (x(low), x(high)) == (pytest.approx(0.6, abs=0.02), pytest.approx(2.2, abs=0.02))
    (band,) = (p.get("d") for p in root.iter("path") if p.get("class") == "band")
    left, _, right = map(float, re.findall(r"[\d.]+", band)[:3])
    assert (x(left), x(right)) == (pytest.approx(-1, abs=0.02), pytest.approx(1, abs=0.02))
    verdict = replace(result.verdict, mean_difference=None, interval_95=None)
    assert difference_chart(verdict, is_share=True) is None


def test_an_interval_of_shares_ends_at_100_points(result):
    wide = replace(result.verdict, mean_difference=0.25, interval_95=(-0.749, 1.245))
    svg = difference_chart(wide, is_share=True)
    assert "95 % interval −74.9 to +100.0" in svg


def test_charts_take_colors_and_font_from_the_page_and_say_what_they_show(result):
    for svg in (short_runs(result).svg(), difference_chart(result.verdict, is_share=True)):
        assert not re.search(r"#[0-9a-fA-F]{6}|font", svg)
        assert 'role="img"' in svg and "aria-label=" in svg and "<title>" in svg


def test_the_page_is_the_same_to_the_byte_and_its_ids_are_unique(result):
    page = report.report_html(result, words=WORDS)
    assert page == report.report_html(with_sizes(toy_result()), words=WORDS)
    assert len(page.encode()) < 100_000
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_names_of_equal_points_stand_a_gap_apart(result):
    runs = [replace(run, loss=0.3) for run in result.measurements if run.fidelity.split == "search"]
    named = [point for point in short_runs(replace(result, measurements=tuple(runs))).points if point.name]
    places = sorted(point.name_y for point in named)
    assert len(places) == 2 and places[1] - places[0] >= 14 and max(places) <= named[0].y
