"""The curve of a training has the numbers that the loop computes with, and costs no result."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from autopeft.train import watched
from autopeft.train.curve import Curve, DivergedError
from autopeft.train.pausing import Position
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


def test_a_run_whose_loss_stays_far_above_its_start_is_stopped_at_the_same_step_if_it_is_resumed():
    """The loss is 1 for twenty steps, then 3: the hundredth of these steps is the last one."""
    for kept in (20, 67, 115):
        curve = Curve(None, start=Position(), n_steps=500)
        with pytest.raises(DivergedError, match="step 120 of 500"):
            for step in range(500):
                if step == kept:
                    curve.look(learning_rate=0.1)
                    start = Position(step=step, first_loss=curve.first_loss, n_high=curve.n_high)
                    curve = Curve(None, start=start, n_steps=500)
                losses = [torch.tensor(1.0 if step < 20 else 3.0)]
                curve.add(step, losses, gradient_norm=torch.tensor(1.0), n_tokens=1)
                if (step + 1) % 10 == 0:
                    curve.look(learning_rate=0.1)


@pytest.mark.parametrize("high", [1.9, 3.0])
def test_a_loss_that_is_not_high_enough_or_falls_again_stops_no_run(high):
    curve = Curve(None, start=Position(), n_steps=500)
    for step in range(500):
        is_low = step < 20 or (high > 2 and step % 90 == 0)
        losses = [torch.tensor(1.0 if is_low else high)]
        curve.add(step, losses, gradient_norm=torch.tensor(1.0), n_tokens=1)
        curve.look(learning_rate=0.1)
    assert curve.first_loss == pytest.approx(1.0)
