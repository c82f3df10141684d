"""The report for eyes and ears: contrast by WCAG 2.2, headings and tables."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from toys.results import WORDS, of_language_model, toy_result, with_sizes

from autopeft import report

VOID = {"meta", "path", "br", "circle", "rect", "use"}


def luminance(color):
    """Relative luminance of `#rrggbb`, as WCAG 2.2 defines it."""
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_of_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)  # the palest grey that passes


def schemes(html):
    """The variables of the light and of the dark scheme."""
    light, dark = re.findall(r":root \{(.*?)\}", html, re.DOTALL)[:2]
    return [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in (light, dark)]


@pytest.fixture(scope="module")
def html():
    return report.report_html(with_sizes(toy_result()), words=WORDS)


@pytest.fixture(scope="module")
def pages(html):
    losses = report.report_html(of_language_model(), words=WORDS)
    return {"report": html, "losses": losses}


@pytest.fixture(params=["light", "dark"])
def colors(request, html):
    """The variables of one color scheme."""
    light, dark = schemes(html)
    assert set(light) == set(dark)
    return {"light": light, "dark": dark}[request.param]


def test_every_text_has_a_contrast_of_four_and_a_half(colors):
    pairs = [(text, paper) for text in ("ink", "soft", "accent") for paper in ("page", "card")]
    pairs += [(tone, f"{tone}-bg") for tone in ("good", "calm", "warn")]
    pairs += [("bad", "page"), *((f"t{n}", f"l{n}") for n in range(1, 7))]
    low = {pair: contrast(*map(colors.get, pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}


def test_whatever_is_drawn_has_a_contrast_of_three(colors):
    pairs = [("soft", "card"), ("ink", "card"), ("hatch", "l6"), ("soft", "band")]
    low = {pair: contrast(*map(colors.get, pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 3} == {}


class Tree(HTMLParser):
    """Headings with their texts, and of each table its caption, its heads and its rows."""

    def __init__(self, html):
        super().__init__()
        self.headings, self.tables, self._open = [], [], []
        self.feed(html[html.index("<body>") :])

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self._open.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append([int(tag[1]), ""])
        elif tag == "table":
            self.tables.append({"caption": "", "scopes": [], "rows": []})
        elif tag == "tr" and "tbody" in self._open:
            self.tables[-1]["rows"].append([])
        elif tag in ("td", "th"):
            if tag == "th":
                self.tables[-1]["scopes"].append(dict(attrs).get("scope"))
            if "tbody" in self._open:
                self.tables[-1]["rows"][-1].append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, text):
        if any(re.fullmatch(r"h[1-6]", tag) for tag in self._open):
            self.headings[-1][1] += text
        if "caption" in self._open:
            self.tables[-1]["caption"] += text


@pytest.mark.parametrize("name", ["report", "losses"])
def test_headings_leave_out_no_level_and_hold_the_answer(pages, name):
    headings = Tree(pages[name]).headings
    levels = [level for level, _ in headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    answers = [text for _, text in headings if text.startswith("Use LoRA")]
    assert len(answers) == 1


@pytest.mark.parametrize("name", ["report", "losses"])
def test_every_table_has_a_caption_and_every_row_and_column_its_head(pages, name):
    tables = Tree(pages[name]).tables
    assert len(tables) >= 9
    for table in tables:
        assert table["caption"].strip() and {*table["scopes"]} <= {"col", "row"}
        assert all("th" in row or len(row) == 1 for row in table["rows"]), table
