"""States of paused runs: how many stay in memory, which go to the disk, and what is forgotten."""

from __future__ import annotations

import pytest
import torch

from autopeft.records import Plan
from autopeft.train.pausing import Position, State
from autopeft.train.states import RungStates

PLANS = [Plan(adapters=(), learning_rate=rate, trainable_params=0) for rate in (0.1, 0.2, 0.3)]


def state(step):
    """A state of 40 bytes."""
    return State(position=Position(step=step, ends=(step,)), tensors={"value.a": torch.full((10,), step)})


@pytest.fixture
def make_states(tmp_path):
    def make(max_bytes):
        return RungStates(folder=lambda plan, seed: tmp_path / f"{plan.digest}-{seed}", max_bytes=max_bytes)

    return make


def test_size_of_a_state_is_that_of_its_tensors():
    assert (
        State(position=Position(), tensors={"a": torch.zeros(3, 2), "b": torch.zeros(1).byte()}).n_bytes == 25
    )


def test_oldest_states_go_to_the_disk_where_memory_does_not_hold_all(make_states, tmp_path):
    tensors = state(1).tensors["value.a"]
    states = make_states(2 * tensors.numel() * tensors.element_size())
    for step, plan in enumerate(PLANS, 1):
        states.keep(plan, 0, state(step))
    assert [folder.name for folder in tmp_path.iterdir()] == [f"{PLANS[0].digest}-0"]
    for step, plan in enumerate(PLANS, 1):
        seen = states.load(plan, 0)
        assert seen.position == state(step).position
        assert torch.equal(seen.tensors["value.a"], tensors * step)


def test_later_state_replaces_the_earlier_one_in_memory_and_on_the_disk(make_states):
    for max_bytes in (0, 2**20):
        states = make_states(max_bytes)
        for step in (4, 9):
            states.keep(PLANS[0], 0, state(step))
            assert states.load(PLANS[0], 0).position.step == step


def test_seeds_of_a_plan_have_states_of_their_own_and_are_forgotten_together(make_states):
    states = make_states(2**20)
    for seed in (0, 1):
        states.keep(PLANS[0], seed, state(4 + seed))
    states.keep(PLANS[1], 0, state(9))
    assert [states.load(PLANS[0], seed).position.step for seed in (0, 1)] == [4, 5]
    states.forget({PLANS[0]})
    assert [states.load(PLANS[0], seed) for seed in (0, 1)] == [None, None]
    assert states.load(PLANS[1], 0).position.step == 9


def test_states_written_at_a_stop_are_read_by_the_next_process(make_states):
    stopped = make_states(2**20)
    for step, plan in enumerate(PLANS, 1):
        stopped.keep(plan, 5, state(step))
    stopped.write()
    assert [make_states(0).load(plan, 5).position.step for plan in PLANS] == [1, 2, 3]
