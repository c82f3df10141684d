"""The position of a learning rate in the range that was searched."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pytest
from toys.results import toy_result

from autopeft.report import PartWords, report_html, report_md, trials_csv
from autopeft.types import Arm

RANGES = {"": (2e-3, 2e-3), "lora": (5e-4, 1.6e-2), "ia3": (1e-3, 1e-1)}


def result_with(ranges, rate=4e-3):
    result = toy_result()
    setting = replace(result.setting, learning_rate_ranges=ranges)
    best = replace(result.best, learning_rate=rate)
    first, *others = result.full_runs
    records = (replace(first, plan=best), *others)
    return replace(result, setting=setting, best=best, challenger=best, full_runs=records, test=())


def test_every_row_of_trials_has_its_position():
    rows = list(csv.DictReader(io.StringIO(trials_csv(result_with(RANGES)))))
    for row in rows:
        rate, found = float(row["learning_rate"]), row["learning_rate_position"]
        low, high = RANGES["ia3" if row["arm"] == "ia3/k" else "lora"]
        assert low * (high / low) ** float(found) == pytest.approx(rate)
    assert len(rows) == len(toy_result().measurements)


def test_a_plan_of_the_user_has_no_position_since_its_scale_may_be_another():
    result = result_with(RANGES)
    yours = replace(result.proposals[0], arm=Arm(kind="given", label="your baseline"))
    given = replace(result, proposals=(yours, *result.proposals[1:]))
    rows = list(csv.DictReader(io.StringIO(trials_csv(given))))
    assert {r["learning_rate_position"] for r in rows if r["arm"] == "given: your baseline"} == {""}
    assert any(r["learning_rate_position"] for r in rows)


@pytest.mark.parametrize(
    ("position", "word"), [(0.05, "lower"), (0.2, ""), (0.8, ""), (0.95, "higher"), (1.2, "higher")]
)
def test_a_rate_in_the_outer_tenth_is_said_with_its_direction(position, word):
    low, high = RANGES["lora"]
    result = result_with(RANGES, low * math.exp(position * math.log(high / low)))
    for page in (report_md(result, words=PartWords()), report_html(result, words=PartWords())):
        assert (f"a {word} rate may be better" in page) == bool(word)
        assert ("may be better" in page) == bool(word)
