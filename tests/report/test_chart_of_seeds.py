"""The chart of seeds where one plan lies far from all others: it does not squeeze these."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toys.results import HEAD, WORDS, toy_result, with_head

from autopeft.report import Drawing


def seeds_with_head_at(value, *, first=False):
    """The chart of 93.6 to 95.8 % beside a head alone, whose seeds all have one value."""
    result = with_head(toy_result())
    *others, head = result.confirmations
    head = replace(head, metric_mean=value, metrics=(value,) * 3)
    confirmed = (head, *others) if first else (*others, head)
    return Drawing(replace(result, confirmations=confirmed), WORDS).seeds()


def points_of(sheet, plan):
    return [line for line in sheet.axes.lines if plan.digest in str(line.get_gid())]


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("value", "text", "height"), [(0.4, "↓ 40.0 %", 0.0), (0.8, "↓ 80.0 %", 0.0), (0.999, "", None)]
)
def test_a_plan_far_off_is_an_arrow_with_its_mean_at_the_edge(value, text, height, first):
    sheet = seeds_with_head_at(value, first=first)
    arrows = [note for note in sheet.axes.texts if note.get_text()[:1] in ("↓", "↑")]
    assert [note.get_text() for note in arrows] == [text] * bool(text)
    assert [note.xy[1] for note in arrows] == [height] * bool(text)
    low, high = sheet.axes.get_ylim()
    n_drawn = len(points_of(sheet, HEAD))
    assert low > 0.92 and n_drawn == (0 if text else 3)
    # The 2.2 points of the others fill most of the axis where one is cut off.
    assert (0.022 / (high - low) > 0.7) == bool(text)
    row = next(row for row in sheet.rows if row[0] == "head alone")
    assert set(row[1:]) == {f"{100 * value:.1f} %"}


def test_a_plan_far_above_points_upwards():
    result = with_head(toy_result())
    lower = tuple(
        replace(record, metrics=tuple(m - 0.5 for m in record.metrics)) if record.plan.adapters else record
        for record in result.confirmations
    )
    sheet = Drawing(replace(result, confirmations=lower), WORDS).seeds()
    (arrow,) = (note for note in sheet.axes.texts if note.get_text().startswith("↑"))
    assert (arrow.get_text(), arrow.xy) == ("↑ 80.0 %", (3, 1.0))


def test_of_two_plans_none_is_far_off():
    result = with_head(toy_result())
    _, *two = result.confirmations[1:]
    sheet = Drawing(replace(result, confirmations=tuple(two)), WORDS).seeds()
    assert len(points_of(sheet, HEAD)) == 3


def test_an_arrow_lies_over_no_point_and_no_name():
    sheet = seeds_with_head_at(0.4, first=True)
    sheet.figure.draw_without_rendering()
    (arrow,) = (note for note in sheet.axes.texts if note.get_text().startswith("↓"))
    box = arrow.get_window_extent()
    others = [note.get_window_extent() for note in sheet.axes.texts if note is not arrow]
    points = [line.get_window_extent() for line in sheet.axes.lines]
    assert not any(box.overlaps(other) for other in (*others, *points))
