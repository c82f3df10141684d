"""Runs that diverge or that the machine breaks off."""

from __future__ import annotations

import pytest
from toys.engine import kind_of, levels, run

from autopeft.errors import TrainingError
from autopeft.types import Fidelity, Plan, Status

DIVERGED, OF_MACHINE = Status.DIVERGED, [Status.FAIL, Status.OUT_OF_MEMORY]


def test_a_baseline_that_diverges_in_full_gives_way_to_the_next() -> None:
    search = run(levels({"q+v": DIVERGED}))
    assert kind_of(search.outcome.baseline) == "lora"
    assert search.kinds("confirm") == {"q+v": 1, "ia3": 1, "lora": 1}
    assert {kind_of(full.plan) for full in search.outcome.full_runs} == {"lora", "ia3"}


def test_one_diverged_seed_of_a_baseline_is_enough() -> None:
    def truth(plan: Plan, fidelity: Fidelity) -> float | Status:
        return DIVERGED if kind_of(plan) == "q+v" and fidelity.seed == 2 else levels()(plan, fidelity)

    search = run(truth, seeds=3)
    assert kind_of(search.outcome.baseline) == "lora"
    assert [full.seeds for full in search.outcome.full_runs] == [(0, 1, 2)] * 2


def test_a_search_whose_baselines_all_diverge_ends_with_an_error() -> None:
    with pytest.raises(TrainingError, match="No learning rate of the baseline finished a full run"):
        run(levels({"q+v": DIVERGED, "lora": DIVERGED}))


@pytest.mark.parametrize("status", [DIVERGED, *OF_MACHINE])
def test_a_baseline_that_cannot_be_trained_at_all_ends_the_search_with_its_error(status: Status) -> None:
    with pytest.raises(TrainingError, match=r"No learning rate of the baseline could be trained: It broke\."):
        run(levels(**{"q+v": status, "lora": status}))


@pytest.mark.parametrize("status", [DIVERGED, *OF_MACHINE])
@pytest.mark.parametrize("effort", ["quick", "normal"])
def test_a_challenger_without_a_finished_full_run_is_left_out(status: Status, effort: str) -> None:
    outcome = run(levels({"ia3": status}, hira=0.1), effort=effort).outcome
    assert outcome.challenger is None and outcome.best == outcome.baseline
    assert outcome.verdict.label == "default kept" and outcome.verdict.mean_difference is None
    assert [full.name for full in outcome.full_runs] == ["best"]


@pytest.mark.parametrize("status", [DIVERGED, *OF_MACHINE])
def test_a_plan_without_a_finished_short_run_is_no_finalist(status: Status) -> None:
    search = run(levels({"hira": 0.9}, hira=status, **{"q+v": status}))
    assert search.kinds("confirm") == {"lora": 1, "ia3": 1}


@pytest.mark.parametrize("status", OF_MACHINE)
def test_a_full_run_of_the_baseline_that_the_machine_broke_off_ends_the_search(status: Status) -> None:
    with pytest.raises(TrainingError, match=r"The full run of plan \w+ failed: It broke\..*--resume"):
        run(levels({"q+v": status}))


@pytest.mark.parametrize("status", OF_MACHINE)
def test_a_run_on_the_test_split_that_broke_off_is_no_score(status: Status) -> None:
    with pytest.raises(TrainingError, match=r"on the test split of plan \w+ failed: It broke\..*--resume"):
        run(lambda plan, at: status if at.split == "test" else levels()(plan, at))


def test_a_score_on_the_test_split_that_is_not_finite_leaves_the_answer_without_one() -> None:
    usual = run(levels()).outcome
    without = run(lambda plan, at: DIVERGED if at.split == "test" else levels()(plan, at)).outcome
    assert (without.best, without.verdict) == (usual.best, usual.verdict)
    assert usual.test and not without.test
