"""Charts: places are read from the SVG through its own labelled ticks."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.results import toy_result, with_sizes

from autopeft.report.charts import TrialMark, difference_chart, trials_chart


@pytest.fixture(scope="module")
def result():
    return with_sizes(toy_result())


def axis(root):
    """A function from pixels to values, fitted to the labelled ticks."""
    ticks = [text for text in root.iter("text") if text.get("class") == "xtick"]
    pixels = [float(tick.get("x")) for tick in ticks]
    values = [float(tick.text.replace("\N{MINUS SIGN}", "-")) for tick in ticks]
    assert 3 <= len(ticks) <= 7
    slope, start = np.polyfit(pixels, values, 1)
    return lambda pixel: slope * float(pixel) + start


def numbers(root, name):
    (path,) = (path for path in root.iter("path") if path.get("class") == name)
    return [float(number) for number in re.findall(r"[\d.]+", path.get("d"))]


def test_the_difference_has_its_interval_and_margin(result):
    root = ElementTree.fromstring(str(difference_chart(result.verdict, is_share=True)))
    x = axis(root)
    (mean,) = (float(circle.get("cx")) for circle in root.iter("circle"))
    assert x(mean) == pytest.approx(1.4, abs=0.02)
    low, _, high, *_ = numbers(root, "bar")
    assert (x(low), x(high)) == (pytest.approx(0.6, abs=0.02), pytest.approx(2.2, abs=0.02))
    left, _, right, *_ = numbers(root, "band")
    assert (x(left), x(right)) == (pytest.approx(-1, abs=0.02), pytest.approx(1, abs=0.02))
    verdict = replace(result.verdict, mean_difference=None, interval_95=None)
    assert difference_chart(verdict, is_share=True) is None


@given(st.lists(st.tuples(st.booleans(), st.floats(0.1, 50)), min_size=2, max_size=60))
def test_trials_are_at_their_losses_and_the_line_is_the_lowest_so_far(drawn):
    trials = [TrialMark(f"plan {n}", f"method {n % 7}", *each) for n, each in enumerate(drawn)]
    losses = [trial.loss for trial in trials]
    root = ElementTree.fromstring(str(trials_chart(trials)))
    circles = list(root.iter("circle"))
    classes = [f"{'ring' if t.is_listed else 'dot'} m{min(n % 7 + 1, 5)}" for n, t in enumerate(trials)]
    assert [circle.get("class") for circle in circles] == classes
    places = [float(circle.get("cx")) for circle in circles]
    assert places == sorted(places) and places[0] > 0 and places[-1] < float(root.get("viewBox").split()[2])
    ticks = [text for text in root.iter("text") if text.get("class") == "left"]
    (low, high) = (float(tick.text) for tick in ticks)
    heights = [float(circle.get("cy")) for circle in circles]
    assert low == pytest.approx(min(losses), rel=1e-2) and high <= max(losses) * 1.01
    for one, height in zip(losses, heights, strict=True):  # lower losses lie lower, to the tenth of a unit
        assert all(
            height >= other_height - 0.1
            for other, other_height in zip(losses, heights, strict=True)
            if other > one
        )
    steps = [
        float(number)
        for number in re.findall(
            r"V([\d.]+)", next(p for p in root.iter("path") if p.get("class") == "line").get("d")
        )
    ]
    assert steps == pytest.approx([max(heights[: n + 1]) for n in range(1, len(heights))], abs=0.11)
