"""Rungs that pause and go on: to the last bit as if they had never stopped."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from autopeft.records import Status
from autopeft.train import rung_course

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

RUNGS = (4, 9, 20)


def timeless(measurement):
    return replace(measurement, train_seconds=0.0, eval_seconds=0.0, trained_steps=0)


@pytest.fixture
def make_pausing(make_bench, tmp_path):
    """A function -> a bench that keeps the state of rungs, and one that does not."""

    def make(**settings):
        folder = tmp_path / "paused"
        keeping = make_bench(
            paused=lambda plan, seed: folder / f"{plan.digest}-{seed}", first_rung_steps=RUNGS[0], **settings
        )
        return keeping, make_bench(first_rung_steps=RUNGS[0], **settings), folder

    return make


@pytest.mark.parametrize(
    ("method", "choices"),
    [("lora", {}), ("lora", {"dora": True}), ("ia3", {}), ("ln_tuning", {}), ("vera", {}), ((), {})],
    ids=["lora", "dora", "ia3", "norms", "vera", "head"],
)
def test_run_paused_at_every_rung_equals_the_unbroken_one(method, choices, make_pausing, make_plan, fidelity):
    keeping, plain, _ = make_pausing()  # with dropout, so that the random state must come back too
    plan = make_plan(keeping.base, method, **choices)
    for n_steps in RUNGS:
        paused = keeping.measure(plan, fidelity(train_steps=n_steps))
        unbroken = plain.measure(plan, fidelity(train_steps=n_steps))
        assert paused.status is Status.COMPLETE
        assert timeless(paused) == timeless(unbroken)
        assert unbroken.trained_steps == n_steps
    # The last rung took up the trunk of the one before, whose last quarter was a branch.
    assert paused.trained_steps == 20 - rung_course(9, first_rung_steps=4).branch_at == 13


def test_mix_of_methods_pauses_too(make_pausing, make_plan, methods, fidelity):
    keeping, plain, _ = make_pausing()
    lora = make_plan(keeping.base, "lora").adapters
    norms = make_plan(keeping.base, "ln_tuning").adapters
    plan = make_plan(keeping.base, (*lora[:3], *(replace(own, rate_factor=3.0) for own in norms)))
    for n_steps in RUNGS:
        paused = keeping.measure(plan, fidelity(train_steps=n_steps))
    assert timeless(paused) == timeless(plain.measure(plan, fidelity(train_steps=n_steps)))


def test_state_file_holds_values_moments_and_the_random_state(make_pausing, make_plan, fidelity):
    keeping, _, folder = make_pausing()
    plan = make_plan(keeping.base, "lora")
    keeping.measure(plan, fidelity(train_steps=9))
    (state,) = folder.glob("*/*")
    tensors = load_file(state)
    n_values = sum(t.numel() for name, t in tensors.items() if name.startswith("value."))
    assert n_values == plan.trainable_params + keeping.base.head_params
    for moment in ("exp_avg", "exp_avg_sq"):
        assert sum(t.numel() for name, t in tensors.items() if name.startswith(f"{moment}.")) == n_values
    assert {float(t) for name, t in tensors.items() if name.startswith("step.")} == {7.0}
    assert tensors["rng"].shape == torch.random.get_rng_state().shape


@pytest.mark.parametrize("damage", ["gone", "cut", "blank", "other"])
def test_state_that_cannot_be_used_costs_time_and_changes_nothing(damage, make_pausing, make_plan, fidelity):
    keeping, plain, folder = make_pausing()
    plan = make_plan(keeping.base, "lora")
    keeping.measure(plan, fidelity(train_steps=9))
    (state,) = folder.glob("*/*")
    if damage == "gone":
        state.unlink()
    elif damage == "cut":
        state.write_bytes(state.read_bytes()[:-100])
    elif damage == "blank":
        state.write_bytes(b"")
    else:
        save_file({"value.other": torch.zeros(3)}, state, metadata={"position": '{"step": 3}'})
    again = keeping.measure(plan, fidelity(train_steps=20))
    assert again.trained_steps == 20
    assert timeless(again) == timeless(plain.measure(plan, fidelity(train_steps=20)))


def test_state_that_is_ahead_of_a_shorter_rung_is_passed_over(make_pausing, make_plan, fidelity):
    keeping, plain, _ = make_pausing()
    plan = make_plan(keeping.base, "lora")
    keeping.measure(plan, fidelity(train_steps=20))
    short = keeping.measure(plan, fidelity(train_steps=4))
    assert timeless(short) == timeless(plain.measure(plan, fidelity(train_steps=4)))


def test_full_runs_neither_pause_nor_take_up(make_pausing, make_plan, fidelity, tmp_path):
    keeping, plain, folder = make_pausing(keep_weights=lambda plan, seed: tmp_path / "weights")
    plan = make_plan(keeping.base, "lora")
    keeping.measure(plan, fidelity(train_steps=9))
    before = {path: path.read_bytes() for path in folder.glob("*/*")}
    full = fidelity(split="confirm", train_steps=20)
    assert timeless(keeping.measure(plan, full)) == timeless(plain.measure(plan, full))
    assert {path: path.read_bytes() for path in folder.glob("*/*")} == before


def test_trunk_does_not_know_how_long_the_rung_will_be():
    short, long = (rung_course(n, first_rung_steps=20) for n in (40, 100))
    assert (short.branch_at, long.branch_at) == (30, 75)
    assert [short.multiplier(t) for t in range(30)] == [long.multiplier(t) for t in range(30)]
    assert [short.multiplier(t) for t in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [short.multiplier(t) for t in range(30, 40)] == pytest.approx([1 - i / 10 for i in range(10)])


@pytest.mark.parametrize("n_steps", [1, 2, 3, 5, 30, 999])
@pytest.mark.parametrize("first", [1, 20, 30])
def test_every_rung_has_positive_rates_of_at_most_the_peak(n_steps, first):
    course = rung_course(n_steps, first_rung_steps=first)
    assert all(0 < course.multiplier(step) <= 1 for step in range(n_steps))
