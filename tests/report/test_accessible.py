"""The report for eyes and ears: contrast by WCAG 2.2, headings and tables."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from toys.results import WORDS, of_language_model, toy_result, with_sizes

from autopeft import report


def luminance(color):
    """Relative luminance of `#rrggbb`, as WCAG 2.2 defines it."""
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


TEXTS = [(text, paper) for text in ("ink", "soft", "accent") for paper in ("page", "card")]
TEXTS += [(tone, f"{tone}-bg") for tone in ("good", "calm", "warn")] + [
    (f"t{n}", f"l{n}") for n in range(1, 6)
]
DRAWN = [("soft", "card"), ("ink", "card"), ("soft", "band"), *((f"m{n}", "card") for n in range(1, 6))]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("pairs", "least"), [(TEXTS, 4.5), (DRAWN, 3)], ids=["texts", "drawn"])
def test_colors_have_the_contrast_of_wcag(scheme, pairs, least):
    html = report.report_html(toy_result(), words=WORDS)
    block = re.findall(r":root \{(.*?)\}", html, re.DOTALL)[scheme]
    colors = dict(re.findall(r"--([\w-]+): (#\w{6})", block))
    low = {pair: contrast(*map(colors.get, pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < least} == {}


@pytest.mark.parametrize("result", [with_sizes(toy_result()), of_language_model()])
def test_headings_leave_out_no_level_and_tables_have_captions_and_heads(result):
    html = report.report_html(result, words=WORDS)
    levels = [int(level) for level in re.findall(r"<h([1-6])", html)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert html.count("<table") == html.count("<caption") >= 9
    assert all('scope="' in head for head in re.findall(r"<th\b[^>]*>", html))
