"""The layers in the table of `count`: each stands in one row, and the rows add up to all."""

from __future__ import annotations

import re

import pytest

from autopeft.adapters import Count
from autopeft.cli.sizes import count_text


def rows_of(values: list[int]) -> list[list[str]]:
    """The rows of layers with so many parameters each: layers, each, parameters."""
    total = sum(values) + 7
    count = Count(
        base_model="toy",
        methods=("lora",),
        trainable_params=total,
        head_params=0,
        base_params=10 * total,
        adapter_bytes=4 * total,
        by_role={"q": total},
        by_layer={**{str(i): n for i, n in enumerate(values)}, "outside": 7},
        targets={"q": len(values)},
        ranks={},
    )
    text = count_text(count)
    assert max(map(len, text.splitlines())) <= 80
    table = text.split("\n\n")[3].splitlines()[1:]
    return [re.split(r" {2,}", row) for row in table]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([5] * 32, ["0-31"]),
        ([3, 3, 3] + [5] * 58, ["0-2", "3-60"]),
        ([3, 5, 3, 3, 5, 3], ["0", "1", "2-3", "4", "5"]),
        ([5], ["0"]),
    ],
)
def test_equal_neighbours_share_a_row(values: list[int], names: list[str]) -> None:
    *rows, outside = rows_of(values)
    assert [name for name, *_ in rows] == names
    assert sum(int(params) for _, _, params, _ in rows) == sum(values)
    assert (outside[0], outside[-2]) == ("outside", "7")
