"""Runs that break off: what is recorded by then, and what a lost confirming run costs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from toys.engine import World, is_baseline, levels, method_of, run
from toys.metrics import LOSS
from toys.results import WORDS, toy_result

from autopeft import report
from autopeft.cli.tables import print_result
from autopeft.engine import Ledger
from autopeft.errors import TrainingError
from autopeft.executors import Serial
from autopeft.records import Fidelity, Measurement, Outcome, Plan, Status

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


def broken_world(method, failure, *, head=0.3):
    """A world where the second confirming run of a method runs out of memory."""

    def quality(plan, fidelity):
        is_broken = fidelity.split == "confirm" and fidelity.seed == 2 and method_of(plan) == method
        return None if is_broken else levels(head=head)(plan, fidelity)

    return World(quality=quality, error="out of memory", failure=failure)


@pytest.mark.parametrize("failure", [Status.FAIL, Status.OUT_OF_MEMORY])
def test_a_confirming_run_that_broke_off_is_no_score(failure):
    with pytest.raises(TrainingError, match=r"failed: out of memory.*continue with --resume"):
        run(broken_world("lora", failure), seeds=3)


def test_a_run_of_the_head_that_broke_off_costs_its_place_alone():
    world = broken_world("head", Status.OUT_OF_MEMORY, head=0.6)
    outcome = run(world, seeds=3).outcome
    assert outcome.verdict.label == "better"
    assert ("head", 2) in {(method_of(plan), at.seed) for plan, at in world.calls if at.split == "confirm"}
    assert "head" not in {confirmation.name for confirmation in outcome.confirmations}


@pytest.mark.parametrize("failure", [Status.FAIL, Status.OUT_OF_MEMORY])
def test_a_run_on_the_test_split_that_broke_off_is_no_score(failure):
    def quality(plan, fidelity):
        return None if fidelity.split == "test" else levels()(plan, fidelity)

    world = World(quality=quality, error="out of memory", failure=failure)
    with pytest.raises(TrainingError, match=r"on the test split .* failed: out of memory.*with --resume"):
        run(world, trials=12)


@pytest.mark.parametrize(("seeds", "label"), [(2, "inconclusive"), (3, "better")])
def test_a_baseline_without_a_finished_run_has_no_loss_to_compare(
    tmp_path: Path, seeds: int, label: str
) -> None:
    """A loss has no worst value that could stand for a run that diverged.

    Two plans of which every second run diverges give the outcome of two seeds in 6 % of cases.
    """

    def truth(plan: Plan, fidelity: Fidelity) -> float | None:
        if is_baseline(plan):
            return None if fidelity.split == "confirm" else 0.6
        return {"head": 0.3, "ia3": 0.8}.get(method_of(plan), 0.5)

    outcome = run(World(quality=truth, counts_errors=True), metric=LOSS, trials=10, seeds=seeds).outcome
    verdict = outcome.verdict
    assert (verdict.label, verdict.mean_difference, verdict.interval_95) == (label, None, None)
    none = f"none of the {seeds} confirming runs of full length of the baseline finished"
    assert f"{none} and {seeds} of the best plan did" in verdict.sentence
    assert "baseline" not in {c.name for c in (*outcome.confirmations, *outcome.test)}
    assert all(abs(c.metric_mean) < 10 for c in outcome.confirmations)
    assert not [text for text in outcome.sentences if "promised" in text]
    assert_written(outcome, tmp_path, says="failed in all its confirming runs")


def test_an_incumbent_without_a_finished_run_leaves_the_baseline(tmp_path: Path) -> None:
    def truth(plan: Plan, fidelity: Fidelity) -> float | None:
        if is_baseline(plan):
            return 0.6
        if method_of(plan) == "ia3":
            return None if fidelity.split == "confirm" else 0.8
        return 0.3

    outcome = run(World(quality=truth, counts_errors=True), metric=LOSS, trials=10).outcome
    assert outcome.verdict.label == "default kept" and outcome.verdict.mean_difference is None
    assert "of the plan compared with it finished" in outcome.verdict.sentence
    assert_written(outcome, tmp_path, says="no confirming run of the default's rival finished")


def assert_written(outcome: Outcome, folder: Path, *, says: str) -> None:
    """Report, model card and terminal are written, and name no stand-in for a loss."""
    setting = replace(toy_result().setting, metric="loss", greater_is_better=False)
    result = replace(toy_result(), **vars(outcome), setting=setting)
    report.write(result, folder, words=WORDS)
    print_result(result, folder)
    facts = report.CardFacts(base_model=None, dataset=None, peft_types=("ia3",), seed=1)
    card = report.model_card(result, facts, WORDS)
    texts = [path.read_text(encoding="utf-8") for path in (folder / "report.md", folder / "result.json")]
    assert says in texts[0]
    assert not [text for text in (card, *texts) if re.search(r"(?<![.\d])(1,?000,?000|999,?999)", text)]
