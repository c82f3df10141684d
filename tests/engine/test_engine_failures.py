"""Runs that break off: what is recorded by then, and what a lost confirming run costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toys.engine import World, levels, method_of, run

from autopeft.engine import Ledger
from autopeft.errors import TrainingError
from autopeft.executors.serial import Serial
from autopeft.records import Fidelity, Measurement, Plan, Status

HEAD = Plan(adapters=(), learning_rate=1e-3, trainable_params=0)
FIDELITY = Fidelity(split="search", train_steps=1, train_examples=1, eval_examples=1, seed=0)


def test_each_measurement_is_recorded_before_the_next_one_begins():
    events = []

    class Quiet:
        def phase(self, name, n_measurements): ...
        def measured(self, measurement, *, arm, is_baseline, seconds_left): ...

    def measure(plan, fidelity):
        events.append(("measure", fidelity.seed))
        return Measurement(plan=plan, fidelity=fidelity, status=Status.COMPLETE, metric=1.0, loss=1.0)

    keys = [(HEAD, replace(FIDELITY, seed=seed)) for seed in range(3)]
    known = {keys[1]: measure(*keys[1])}
    events.clear()
    ledger = Ledger(
        executor=Serial(),
        measure=measure,
        progress=Quiet(),
        known=known,
        record=lambda measurement: events.append(("record", measurement.fidelity.seed)),
    )
    ledger.measure_all(keys)
    assert events == [("measure", 0), ("record", 0), ("measure", 2), ("record", 2)]
    assert list(ledger.measured) == keys


def broken_world(method, failure):
    """A world where the second confirming run of a method runs out of memory."""

    def quality(plan, fidelity):
        is_broken = fidelity.split == "confirm" and fidelity.seed == 2 and method_of(plan) == method
        return None if is_broken else levels()(plan, fidelity)

    return World(quality=quality, error="out of memory", failure=failure)


@pytest.mark.parametrize("failure", [Status.FAIL, Status.OUT_OF_MEMORY])
def test_a_confirming_run_that_broke_off_is_no_score(failure):
    with pytest.raises(TrainingError, match=r"failed: out of memory.*continue with --resume"):
        run(broken_world("lora", failure), seeds=3)


def test_a_run_of_the_head_that_broke_off_costs_its_place_alone():
    outcome = run(broken_world("head", Status.OUT_OF_MEMORY), seeds=3).outcome
    assert outcome.verdict.label == "better"
    assert "head" not in {confirmation.name for confirmation in outcome.confirmations}


@pytest.mark.parametrize("failure", [Status.FAIL, Status.OUT_OF_MEMORY])
def test_a_run_on_the_test_split_that_broke_off_is_no_score(failure):
    def quality(plan, fidelity):
        return None if fidelity.split == "test" else levels()(plan, fidelity)

    world = World(quality=quality, error="out of memory", failure=failure)
    with pytest.raises(TrainingError, match=r"on the test split .* failed: out of memory.*with --resume"):
        run(world)
