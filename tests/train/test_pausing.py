"""Rungs that pause and resume give the same bits as rungs that never stopped."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from autopeft.records import Status
from autopeft.train import rate_schedule

RUNGS = (4, 9, 20)


def timeless(measurement):
    return replace(measurement, train_seconds=0.0, eval_seconds=0.0, overhead_seconds=0.0, trained_steps=0)


@pytest.fixture
def make_pausing(make_bench, tmp_path):
    """A function -> a bench that keeps the state of rungs, and one that does not."""

    def make(**settings):
        folder = tmp_path / "paused"
        keeping = make_bench(
            paused=lambda plan, seed: folder / f"{plan.digest}-{seed}", rung_steps=RUNGS, **settings
        )
        return keeping, make_bench(rung_steps=RUNGS, **settings), folder

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
    assert paused.trained_steps == 20 - 9  # the last rung resumed the one before


def test_mix_of_methods_pauses_too(make_pausing, make_plan, methods, fidelity):
    keeping, plain, _ = make_pausing()
    lora = make_plan(keeping.base, "lora").adapters
    norms = make_plan(keeping.base, "ln_tuning").adapters
    plan = make_plan(keeping.base, (*lora[:3], *(replace(adapter, rate_factor=3.0) for adapter in norms)))
    for n_steps in RUNGS:
        paused = keeping.measure(plan, fidelity(train_steps=n_steps))
    assert timeless(paused) == timeless(plain.measure(plan, fidelity(train_steps=n_steps)))


@pytest.mark.parametrize("damage", ["gone", "cut", "blank", "other"])
def test_state_that_cannot_be_used_costs_time_and_changes_nothing(damage, make_pausing, make_plan, fidelity):
    keeping, plain, folder = make_pausing()
    plan = make_plan(keeping.base, "lora")
    keeping.measure(plan, fidelity(train_steps=9))
    keeping.states.write()
    (state,) = folder.glob("*/*")
    if damage == "gone":
        state.unlink()
    elif damage == "cut":
        state.write_bytes(state.read_bytes()[:-100])
    elif damage == "blank":
        state.write_bytes(b"")
    else:
        position = '{"step": 9, "ends": [4, 9]}'
        save_file({"value.other": torch.zeros(3)}, state, metadata={"position": position})
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
    keeping.states.write()
    before = {path: path.read_bytes() for path in folder.glob("*/*")}
    full = fidelity(split="confirm", train_steps=20)
    assert timeless(keeping.measure(plan, full)) == timeless(plain.measure(plan, full))
    assert {path: path.read_bytes() for path in folder.glob("*/*")} == before


def test_state_that_cannot_be_written_costs_the_run_nothing(make_pausing, make_plan, fidelity):
    keeping, plain, folder = make_pausing()
    keeping.states.max_bytes = 0
    folder.write_text("in the way")  # as a full disk: an OSError when the state is written
    plan = make_plan(keeping.base, "lora")
    for n_steps in (4, 9):
        seen = keeping.measure(plan, fidelity(train_steps=n_steps))
        assert timeless(seen) == timeless(plain.measure(plan, fidelity(train_steps=n_steps)))


def test_state_of_another_schedule_is_ignored(make_pausing, make_plan, fidelity):
    keeping, plain, _ = make_pausing()
    plan = make_plan(keeping.base, "lora")
    keeping.measure(plan, fidelity(train_steps=9))
    keeping.states.write()
    keeping, plain = (
        replace(bench, rung_steps=(9, 20)) for bench in (keeping, plain)
    )  # one cycle of 9 steps
    other = keeping.measure(plan, fidelity(train_steps=20))
    assert other.trained_steps == 20
    assert timeless(other) == timeless(plain.measure(plan, fidelity(train_steps=20)))


@pytest.mark.parametrize("max_bytes", [2**30, 0], ids=["written when stopped", "written at once"])
def test_process_that_resumes_a_search_goes_on_to_the_bit(max_bytes, make_pausing, make_plan, fidelity):
    stopped, plain, folder = make_pausing()
    stopped.states.max_bytes = max_bytes
    plan = make_plan(stopped.base, "lora")
    stopped.measure(plan, fidelity(train_steps=9))
    assert len(list(folder.glob("*/*"))) == (0 if max_bytes else 1)
    stopped.states.write()
    resuming = replace(stopped)  # as a new process: it shares the folder, and nothing in memory
    assert resuming.states is not stopped.states
    seen = resuming.measure(plan, fidelity(train_steps=20))
    assert seen.trained_steps == 20 - 9
    assert timeless(seen) == timeless(plain.measure(plan, fidelity(train_steps=20)))


def test_process_that_is_killed_costs_time_and_changes_nothing(make_pausing, make_plan, fidelity):
    killed, plain, _ = make_pausing()
    plan = make_plan(killed.base, "lora")
    killed.measure(plan, fidelity(train_steps=4))
    killed.states.write()
    killed.measure(plan, fidelity(train_steps=9))  # and its state is lost
    seen = replace(killed).measure(plan, fidelity(train_steps=20))
    assert seen.trained_steps == 20 - 4
    assert timeless(seen) == timeless(plain.measure(plan, fidelity(train_steps=20)))


def test_rung_that_failed_is_tried_again_from_the_same_state(make_pausing, make_plan, fidelity):
    keeping, plain, _ = make_pausing()
    plan = make_plan(keeping.base, "lora")
    keeping.measure(plan, fidelity(train_steps=4))
    state = keeping.states.load(plan, 0)
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    keeping.measure(plan, fidelity(train_steps=24))  # trains on from the state, and keeps none at its end
    assert keeping.states.load(plan, 0) is state
    assert all(torch.equal(state.tensors[name], tensor) for name, tensor in before.items())
    again = keeping.measure(plan, fidelity(train_steps=24))
    assert timeless(again) == timeless(plain.measure(plan, fidelity(train_steps=24)))


def test_full_run_goes_on_from_the_last_rung_to_the_bit_and_leaves_no_state(
    make_pausing, make_plan, fidelity
):
    keeping, plain, folder = make_pausing()
    plan, full = make_plan(keeping.base, "lora"), RUNGS[-1] + 4
    keeping.measure(plan, fidelity(train_steps=RUNGS[-1]))
    seen = keeping.measure(plan, fidelity(train_steps=full))
    assert seen.trained_steps == full - RUNGS[-1]
    assert timeless(seen) == timeless(plain.measure(plan, fidelity(train_steps=full)))
    assert keeping.states.load(plan, 0).position.step == RUNGS[-1]
    keeping.states.forget([plan])
    keeping.states.write()
    assert not folder.exists()


def test_longer_rung_begins_like_the_shorter_one_and_both_end_decayed():
    short, long = (rate_schedule(n, rung_steps=RUNGS) for n in (9, 20))
    assert (short.ends, long.ends) == ((4, 9), (4, 9, 20))
    assert [short.multiplier(t) for t in range(9)] == [long.multiplier(t) for t in range(9)]
    assert [long.multiplier(t) for t in (0, 4, 9)] == [1.0, 1.0, 1.0]
    assert [long.multiplier(t) for t in (3, 8, 19)] == pytest.approx([1 / 4, 1 / 5, 1 / 11])
