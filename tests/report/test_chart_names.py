"""Names in charts: none lies over another one."""

from __future__ import annotations

from itertools import combinations

import pytest
from matplotlib.text import Text

from autopeft.report.charts.canvas import sheet
from autopeft.report.charts.marks import name_points

LONG = "IA³ + BitFit (smallest, unproven)"


@pytest.mark.parametrize("other", [0.9, 0.905, 0.5])
@pytest.mark.parametrize(("near", "name"), [(0.1, LONG), (0.48, "a"), (0.45, LONG)])
def test_names_of_points_on_both_sides_do_not_meet(near, name, other):
    with sheet("test") as drawn:
        drawn.axes.set_xlim(0, 1)
        drawn.axes.set_ylim(0, 1)
        name_points(drawn, [(near, 0.9, name), (0.95, other, "default LoRA on all linear maps (best)")])
        drawn.figure.draw_without_rendering()
        boxes = [Text.get_window_extent(name) for name in drawn.axes.texts]  # without their lines
    assert len(boxes) == 2
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))
