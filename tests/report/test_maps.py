"""The maps of scores: the shade of every cell is in the legend, and says what the cell holds."""

from __future__ import annotations

import pytest
from toys.space import linear

from autopeft.records import SiteScores
from autopeft.report.maps import score_map


def shown_map(values):
    sites = [linear(f"h.{n}.q", layer=n, role="q", widths=(8, 8)) for n in range(len(values))]
    return score_map(sites, SiteScores(name="gradient", values=tuple(values)))


def percent(words):
    return float(words.removeprefix("< ").removeprefix("≥ ").removesuffix(" %"))


@pytest.mark.parametrize(
    ("values", "legend"),
    [
        ([1.0], ["< 50 %", "≥ 50 %"]),
        ([9.0, 1.0], ["< 25 %", "≥ 25 %", "≥ 50 %"]),
        ([1.0] * 8, ["< 6.2 %", "≥ 6.2 %", "≥ 12 %", "≥ 25 %", "≥ 50 %"]),
        ([1.0] * 16, ["< 3.1 %", "≥ 3.1 %", "≥ 6.2 %", "≥ 12 %", "≥ 25 %"]),
        ([1.0] * 400, ["< 0.12 %", "≥ 0.12 %", "≥ 0.25 %", "≥ 0.5 %", "≥ 1 %", "≥ 4 %"]),
    ],
)
def test_shades_of_a_score_end_below_its_whole_and_have_no_exponent(values, legend):
    """The mean cell of n is 100 / n percent; shades begin at ½, 1, 2, 4 and 16 times that."""
    assert list(shown_map(values).legend) == legend


@pytest.mark.parametrize("values", [[1.0], [1.0, 0.0], [1e6, 1.0], [1e6, 1.0, 2.0, 3.0], [1.0] * 15 + [99]])
def test_every_cell_lies_in_the_class_of_its_shade(values):
    drawn = shown_map(values)
    *bounds, top = (percent(words) for words in drawn.legend[1:])
    classes = list(zip([0.0, *bounds, top], [*bounds, top, 101.0], strict=True))
    for (_, (cell,)), value in zip(drawn.rows, reversed(values), strict=True):
        if value:
            low, high = classes[cell.level - 1]
            assert low - 0.01 <= 100 * value / sum(values) < high + 0.01
