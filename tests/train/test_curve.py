"""The curve of a training has the numbers that the loop computes with, and costs no result."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from autopeft.train import watched
from autopeft.types import Status


def points_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_points_are_means_of_ten_steps_and_change_no_result(make_bench, make_plan, fidelity, tmp_path):
    bench, plain, losses = make_bench(curve=lambda *_: tmp_path / "c" / "run.jsonl"), make_bench(), []
    plan = make_plan(bench.base, "lora", learning_rate=0.01)
    with watched(lambda step, n_steps, loss: losses.append(loss())):
        seen = bench.measure(plan, fidelity(train_steps=25))
    assert seen.loss == plain.measure(plan, fidelity(train_steps=25)).loss
    points = points_of(tmp_path / "c" / "run.jsonl")
    assert [point["step"] for point in points] == [10, 20, 25]
    assert points[1]["loss"] == pytest.approx(sum(losses[10:20]) / 10)
    assert points[1]["learning_rate"] == pytest.approx(0.01 * (25 - 19) / (25 - 2 + 1))  # of step 20
    assert all(point["gradient_norm"] > 0 and point["tokens_per_second"] > 0 for point in points)


def test_a_diverged_run_ends_its_curve_and_a_file_that_cannot_be_written_is_left_out(
    make_bench, make_plan, fidelity, tmp_path
):
    (tmp_path / "file").touch()
    for folder in ("curves", "file"):
        bench = make_bench(curve=lambda *_, folder=folder: tmp_path / folder / "run.jsonl")
        plan = replace(make_plan(bench.base, "lora"), learning_rate=1e30)
        assert bench.measure(plan, fidelity(train_steps=20)).status is Status.DIVERGED
        assert bench.measure(make_plan(bench.base, "lora"), fidelity()).status is Status.COMPLETE
    assert all(math.isfinite(point["loss"]) for point in points_of(tmp_path / "curves" / "run.jsonl"))
