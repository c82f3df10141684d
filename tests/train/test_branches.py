"""A full run that goes on from its short run gives the same bits as one from the start."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autopeft.types import Status

SHORT, FULL = 10, 25
BRANCH = 8  # four fifths of the short run


def timeless(measurement):
    return replace(measurement, train_seconds=0.0, eval_seconds=0.0, overhead_seconds=0.0, trained_steps=0)


@pytest.fixture
def make_benches(make_bench, tmp_path):
    """A function -> a bench that keeps states and weights, and one that keeps no states."""

    def make(**settings):
        kept = {
            "under_way": lambda plan, at: tmp_path / "states" / f"{plan.digest}-{at.train_steps}-{at.seed}",
            "keep_weights": lambda plan, seed: tmp_path / "kept",
        }
        plain = {"keep_weights": lambda plan, seed: tmp_path / "plain"}
        return [make_bench(full_steps=FULL, **fields, **settings) for fields in (kept, plain)]

    return make


@pytest.fixture
def short(fidelity):
    """A short run."""
    return fidelity(train_steps=SHORT)


@pytest.fixture
def full(fidelity):
    """A full run."""
    return fidelity(split="confirm", train_steps=FULL)


def weights(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize(
    ("method", "choices"),
    [("lora", {}), ("lora", {"dora": True}), ("ia3", {}), ("ln_tuning", {}), ("vera", {}), ((), {})],
    ids=["lora", "dora", "ia3", "norms", "vera", "head"],
)
def test_full_run_after_a_short_one_has_the_bits_of_one_from_the_start(
    method, choices, make_benches, make_plan, short, full, tmp_path
):
    keeping, plain = make_benches()  # with dropout, so that the random state must come back too
    plan = make_plan(keeping.base, method, **choices)
    assert timeless(keeping.measure(plan, short)) == timeless(plain.measure(plan, short))
    gone_on, from_start = keeping.measure(plan, full), plain.measure(plan, full)
    assert gone_on.status is Status.COMPLETE
    assert timeless(gone_on) == timeless(from_start)
    assert (gone_on.trained_steps, from_start.trained_steps) == (FULL - BRANCH, FULL)
    assert weights(tmp_path / "kept") == weights(tmp_path / "plain") != {}


def test_mix_of_methods_goes_on_too(make_benches, make_plan, short, full):
    keeping, plain = make_benches()
    lora, norms = (make_plan(keeping.base, name).adapters for name in ("lora", "ln_tuning"))
    plan = make_plan(keeping.base, (*lora[:3], *(replace(adapter, rate_factor=3.0) for adapter in norms)))
    keeping.measure(plan, short)
    assert timeless(keeping.measure(plan, full)) == timeless(plain.measure(plan, full))


def test_another_seed_trains_from_the_start(make_benches, make_plan, short, full):
    keeping, plain = make_benches()
    plan, other = make_plan(keeping.base, "lora"), replace(full, seed=1)
    keeping.measure(plan, short)
    seen = keeping.measure(plan, other)
    assert seen.trained_steps == FULL and timeless(seen) == timeless(plain.measure(plan, other))


@pytest.mark.parametrize("damage", ["gone", "cut", "blank"])
def test_state_that_cannot_be_used_costs_time_and_changes_nothing(
    damage, make_benches, make_plan, short, full, tmp_path
):
    keeping, plain = make_benches()
    plan = make_plan(keeping.base, "lora")
    keeping.measure(plan, short)
    (state,) = (tmp_path / "states").glob("*/*")
    if damage == "gone":
        state.unlink()
    elif damage == "cut":
        state.write_bytes(state.read_bytes()[:-100])
    else:
        state.write_bytes(b"")
    seen = keeping.measure(plan, full)
    assert seen.trained_steps == FULL and timeless(seen) == timeless(plain.measure(plan, full))


def test_short_run_after_its_full_run_starts_anew(make_benches, make_plan, short, full):
    keeping, plain = make_benches()
    plan = make_plan(keeping.base, "lora")
    first = keeping.measure(plan, short)
    keeping.measure(plan, full)
    again = keeping.measure(plan, short)
    assert again.trained_steps == SHORT
    assert timeless(again) == timeless(first) == timeless(plain.measure(plan, short))
