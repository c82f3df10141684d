"""Heat maps: the shade of every cell is in the legend and matches its value."""

from __future__ import annotations

import pytest
from toys.space import linear

from autopeft.report.layer_maps import MAX_ROWS, merged, rank_map, score_map
from autopeft.types import Adapter, Plan, TargetScores


def shown_map(values):
    targets = [linear(f"h.{n}.q", layer=n, role="q", widths=(8, 8)) for n in range(len(values))]
    return score_map(targets, TargetScores(name="gradient", values=tuple(values)))


def percent(words):
    return float(words.removeprefix("< ").removeprefix("≥ ").removesuffix(" %"))


@pytest.mark.parametrize("values", [[1.0], [1.0, 0.0], [1e6, 1.0], [1e6, 1.0, 2.0, 3.0], [1.0] * 15 + [99]])
def test_every_cell_lies_in_the_class_of_its_shade(values):
    drawn = shown_map(values)
    *bounds, top = (percent(words) for words in drawn.legend[1:])
    classes = list(zip([0.0, *bounds, top], [*bounds, top, 101.0], strict=True))
    for (_, (cell,)), value in zip(drawn.rows, reversed(values), strict=True):
        if value:
            low, high = classes[cell.level - 1]
            assert low - 0.01 <= 100 * value / sum(values) < high + 0.01


def ranks_of(ranks):
    """The map of a plan with one LoRA per layer; None leaves a layer alone."""
    targets = [linear(f"h.{n}.q", layer=n, role="q", widths=(8, 8)) for n in range(len(ranks))]
    outside = linear("pooler", layer=None, role="q", widths=(8, 8))
    adapters = tuple(
        Adapter(method="lora", target=f"h.{n}.q", rank=rank) for n, rank in enumerate(ranks) if rank
    )
    return rank_map((*targets, outside), Plan(adapters=adapters, learning_rate=1e-3, trainable_params=1), {})


def test_equal_neighbours_share_a_row_and_others_do_not():
    rows = merged(ranks_of([4, 4, 4, None, 2, 2, 4])).rows
    labels = [(label, cells[0].text) for label, cells in rows]
    assert labels == [("6", "4"), ("4-5", "2"), ("3", "·"), ("0-2", "4"), ("outside", "·")]
    assert rows[3][1][0].title == "h.0.q: 4 … h.2.q: 4"
    assert [cell.title for _, cells in rows for cell in cells].count("h.3.q: ·") == 1


@pytest.mark.parametrize(("ranks", "is_long"), [([4] * 126, False), ([4, 2] * 20, True)])
def test_equal_layers_of_a_deep_model_are_one_row(ranks, is_long):
    assert (len(merged(ranks_of(ranks)).rows) > MAX_ROWS) == is_long
