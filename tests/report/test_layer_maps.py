"""Heat maps: texts and shades of the cells."""

from __future__ import annotations

from toys.space import linear

from autopeft.report.layer_maps import rank_map, score_map
from autopeft.types import Adapter, Plan, TargetScores


def targets_of(n_layers):
    targets = [linear(f"h.{n}.q", layer=n, role="q", widths=(8, 8)) for n in range(n_layers)]
    return (*targets, linear("pooler", layer=None, role="q", widths=(8, 8)))


def test_the_shade_of_a_score_is_its_multiple_of_the_mean_layer():
    """The mean of the layers is 2; the pooler has most of the score, and does not count."""
    values = (0.0, 0.9, 1.0, 2.1, 6.0, 100.0)
    drawn = score_map(targets_of(5), TargetScores(name="gradient", values=values))
    assert [label for label, _ in drawn.rows] == ["4", "3", "2", "1", "0", "other"]
    assert [cell.level for _, (cell,) in drawn.rows] == [4, 3, 2, 1, 0, 5]
    assert [cell.text for _, (cell,) in drawn.rows] == ["5.5", "1.9", "0.9", "0.8", "0.0", "90.9"]


def test_a_score_of_zero_has_no_map():
    assert score_map(targets_of(1), TargetScores(name="gradient", values=(0.0, 0.0))) is None


def test_the_shade_of_a_rank_is_the_same_for_every_plan():
    ranks = (1, 2, 3, 4, 15, 16, 64, None)
    adapters = tuple(
        Adapter(method="lora", target=f"h.{n}.q", rank=rank) for n, rank in enumerate(ranks) if rank
    )
    plan = Plan(adapters=adapters, learning_rate=1e-3, trainable_params=1)
    rows = rank_map(targets_of(8), plan, {}).rows
    assert [cell.level for _, (cell,) in reversed(rows)] == [0, 1, 2, 2, 3, 4, 5, 5, 0]
    assert rows[1][1][0].title == "h.6.q: 64" and rows[0][1][0].text == "·"
