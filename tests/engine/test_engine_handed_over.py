"""Which plan `engine.search` hands over once the confirmation has spoken."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
from toys.engine import OwnLoss, is_baseline, levels, method_of, problem, run
from toys.metrics import ACCURACY

from autopeft.engine.judge import recommended
from autopeft.records import (
    Adapter,
    Confirmation,
    Fidelity,
    Measurement,
    Plan,
    Status,
)

optuna.logging.set_verbosity(optuna.logging.ERROR)


def luck_of_the_search(plan: Plan, fidelity: Fidelity) -> float | None:
    """IA3 shines on the search split alone."""
    return levels(ia3=0.9 if fidelity.split == "search" else 0.1)(plan, fidelity)


def by_name(confirmations: tuple[Confirmation, ...]) -> dict[str, Confirmation]:
    return {confirmation.name: confirmation for confirmation in confirmations}


def test_luck_on_the_search_split_is_found_out_and_the_baseline_is_handed_over() -> None:
    outcome = run(luck_of_the_search).outcome
    assert outcome.incumbent is not None and method_of(outcome.incumbent) == "ia3"
    assert outcome.best == outcome.baseline
    assert outcome.verdict.label == "default kept"
    assert outcome.verdict.sentence.startswith("The baseline is kept. The plan compared with it is worse")
    assert (outcome.verdict.mean_difference or 0.0) < 0
    named = by_name(outcome.confirmations)
    assert named["incumbent"].plan == outcome.incumbent
    assert named["best"].plan == named["baseline"].plan == outcome.baseline


def test_smaller_plan_below_the_baseline_is_kept_only_as_a_candidate_for_the_smallest() -> None:
    """IA3 is put first, is half a point worse when confirmed, and has fewer parameters."""

    def truth(plan: Plan, fidelity: Fidelity) -> float:
        is_search = fidelity.split == "search"
        return {"ia3": 0.9 if is_search else 0.795, "lora": 0.8, "head": 0.3}[method_of(plan)]

    outcome = run(truth, n_confirm=200).outcome
    assert outcome.best == outcome.baseline and outcome.smallest == outcome.incumbent
    assert 2 * outcome.smallest.trainable_params <= outcome.best.trainable_params
    assert outcome.verdict.smallest_equivalent == "unproven"


@pytest.mark.parametrize(("ia3", "label"), [(0.9, "better"), (0.5, "default kept")])
def test_a_small_plan_is_handed_over_where_it_beats_a_leading_baseline(ia3: float, label: str) -> None:
    def quality(plan: Plan, fidelity: Fidelity) -> float | None:
        if fidelity.split == "confirm":
            return levels(lora=0.4, ia3=ia3)(plan, fidelity)
        return 0.75 if is_baseline(plan) else levels(ia3=0.72)(plan, fidelity)

    outcome = run(quality, seeds=3).outcome
    assert (outcome.verdict.label, method_of(outcome.smallest)) == (label, "ia3")
    assert (outcome.best == outcome.smallest) == (label == "better")


@pytest.mark.parametrize(
    ("share", "label"), [(1.0, "default kept"), (0.95, "default kept"), (0.5, "equivalent")]
)
@pytest.mark.parametrize("n", [5000, 200])  # of 200 examples nothing is proven, but the means are equal
def test_as_good_with_as_many_parameters_is_no_reason_to_leave_the_default(
    share: float, label: str, n: int
) -> None:
    incumbent, baseline = (
        Plan(adapters=(Adapter(method="lora", site=site, rank=1),), learning_rate=1e-3, trainable_params=n)
        for site, n in (("h.0.q", round(1000 * share)), ("h.0.v", 1000))
    )
    right = [1.0] * (n * 4 // 5) + [0.0] * (n // 5)
    confirmed = {
        plan: [
            Measurement(
                plan=plan,
                fidelity=Fidelity(
                    split="confirm", train_steps=9, train_examples=9, eval_examples=n, seed=seed
                ),
                status=Status.COMPLETE,
                metric=0.8,
                loss=0.5,
                example_scores=tuple(right[moved:] + right[:moved]),
            )
            for seed in (1, 2)
        ]
        for plan, moved in ((incumbent, 10), (baseline, 0))
    }
    best = recommended(problem(seeds=2), confirmed, incumbent=incumbent, baseline=baseline)
    assert (best == baseline) == (label == "default kept")


def test_an_incumbent_that_never_finished_is_not_handed_over() -> None:
    """Neither it nor the baseline has a run to show: both are wrong on every example, and so equal."""

    def truth(plan: Plan, fidelity: Fidelity) -> float | None:
        return None if fidelity.split == "confirm" else levels(ia3=0.9)(plan, fidelity)

    outcome = run(truth, n_confirm=1000).outcome
    assert outcome.incumbent is not None and method_of(outcome.incumbent) == "ia3"
    assert outcome.best == outcome.baseline
    assert (outcome.verdict.label, outcome.verdict.mean_difference) == ("default kept", None)
    assert "none of the 2 confirming runs of full length finished" in outcome.verdict.sentence
    assert not {"best", "baseline"} & {c.name for c in (*outcome.confirmations, *outcome.test)}


def test_a_leading_baseline_that_never_finishes_has_no_score() -> None:
    def truth(plan: Plan, fidelity: Fidelity) -> float | None:
        return None if fidelity.split == "confirm" else 0.9 if is_baseline(plan) else 0.2

    outcome = run(truth, seeds=3).outcome
    assert outcome.best == outcome.baseline and outcome.verdict.label == "default kept"
    assert outcome.verdict.sentence.endswith("it has no score and no weights.")
    assert outcome.best not in {c.plan for c in (*outcome.confirmations, *outcome.test)}
    assert any("baseline diverged on its only seed at" in text for text in outcome.sentences)


@pytest.mark.parametrize(("confirm", "leader"), [("half", "ia3"), ("full", "head")])
def test_head_alone_that_leads_in_short_runs_is_no_finalist_of_half_a_run(confirm: str, leader: str) -> None:
    """It learns first: ahead on the search split, and hardly ahead when confirmed."""

    def truth(plan: Plan, fidelity: Fidelity) -> float | None:
        is_search = fidelity.split == "search"
        return levels(lora=0.7, ia3=0.75, head=0.9 if is_search else 0.752)(plan, fidelity)

    outcome = run(truth, confirm=confirm, n_confirm=200).outcome
    assert method_of(outcome.incumbent or outcome.best) == leader
    assert method_of(outcome.best) == leader
    assert "head" in {method_of(confirmation.plan) for confirmation in outcome.confirmations}


def test_head_alone_that_is_proven_better_by_half_runs_is_handed_over() -> None:
    outcome = run(levels(lora=0.6, ia3=0.7, head=0.95), confirm="half", n_confirm=400).outcome
    assert method_of(outcome.best) == "head" and outcome.best == outcome.smallest
    assert outcome.verdict.label == "better"
    assert method_of(by_name(outcome.confirmations)["runner-up"].plan) == "ia3"
    assert (outcome.verdict.mean_difference or 0.0) > 0.3  # against the baseline


@pytest.mark.parametrize(("seeds", "label"), [(2, "inconclusive"), (3, "better")])
def test_head_alone_is_handed_over_where_nothing_else_finished(seeds: int, label: str) -> None:
    def truth(plan: Plan, fidelity: Fidelity) -> float | None:
        is_lost = fidelity.split == "confirm" and plan.adapters
        return None if is_lost else levels(ia3=0.9)(plan, fidelity)

    outcome = run(truth, n_confirm=1000, seeds=seeds).outcome
    assert method_of(outcome.best) == "head" and outcome.verdict.label == label


@pytest.mark.parametrize("first", [0.0, 0.4])
def test_a_metric_that_rises_leads_where_the_loss_hardly_falls(first: float) -> None:
    """The labels are rare: all losses stay where they were. What the first rung had already is no gain."""

    def quality(plan: Plan, fidelity: Fidelity) -> float:
        is_first = fidelity.train_steps <= 3
        return 0.0 if method_of(plan) != "ia3" else first if is_first else 0.4

    world = OwnLoss(quality=quality, loss=lambda plan, fidelity: 1.0)
    outcome = run(world, metric=replace(ACCURACY, name="micro-F1", score_span=None), confirm="none").outcome
    assert (method_of(outcome.best) == "ia3") is (first == 0.0)
    assert is_baseline(outcome.best) is (first > 0.0)
