"""How small can it be: a short race and a full run for each smaller budget."""

from __future__ import annotations

import pytest
from toys.engine import NO_LORA, ROOMY, World, kind_of, levels, run
from toys.metrics import ERROR_RATE

from autopeft.engine.judge import rank
from autopeft.types import Fidelity, Plan, Status


def truth(plan: Plan, fidelity: Fidelity) -> float:
    """A method and its size decide; a short run is half as good."""
    in_full = {"head": 0.1, "lora": 0.5, "q+v": 0.6, "ia3": 0.55, "hira": 0.58, "road": 0.57}[kind_of(plan)]
    in_full += plan.trainable_params / 1000
    return in_full / 2 if fidelity.split == "search" else in_full


@pytest.mark.parametrize("n_sizes", [1, 2, 3])
def test_each_smaller_budget_is_kept_to_and_is_a_fifth_of_the_one_before(n_sizes: int) -> None:
    sizes = run(truth, sizes=n_sizes).outcome.sizes
    assert [size.max_trainable_params for size in sizes] == [ROOMY // 5, ROOMY // 25][: n_sizes - 1]
    assert [size.share for size in sizes] == pytest.approx([0.2, 0.04][: n_sizes - 1])
    assert all(0 < size.plan.trainable_params <= size.max_trainable_params for size in sizes)


def test_the_plan_of_a_size_was_best_in_its_short_race_and_is_compared_with_the_best_plan() -> None:
    search = run(truth, sizes=3, seed=4, seeds=2)
    best = search.named("best")
    for size in search.outcome.sizes:
        raced = [m for m in search.at("search") if m.plan.trainable_params <= size.max_trainable_params]
        assert size.plan == rank(search.problem, raced)[0].plan
        fulls = [m for m in search.at("confirm") if m.plan == size.plan]
        assert [(m.fidelity.train_steps, m.fidelity.seed) for m in fulls] == [(200, 4)]
        assert size.metric_mean == pytest.approx(fulls[0].metric)
        assert size.mean_difference == pytest.approx(size.metric_mean - best.metrics[0])
        assert size.interval_95[0] < size.mean_difference < size.interval_95[1]
        assert size.plan not in {m.plan for m in search.at("test")}
    usual = run(truth, seed=4, seeds=2)
    paid = sum(size.seconds for size in search.outcome.sizes)
    assert paid == search.world.seconds - usual.world.seconds > 0


def test_an_error_of_a_smaller_plan_that_is_higher_is_a_loss() -> None:
    world = World(truth=truth, greater_is_better=False)
    outcome = run(world, sizes=2, metric=ERROR_RATE).outcome
    (size,) = outcome.sizes
    assert size.metric_mean > outcome.full_runs[0].metric_mean
    assert size.mean_difference == pytest.approx(outcome.full_runs[0].metric_mean - size.metric_mean)


def test_a_plan_that_the_search_has_measured_is_not_measured_again() -> None:
    """IA3 costs 64 everywhere, whatever the budget."""
    search = run(levels(ia3=0.9, hira=0.1), max_params=330, sizes=2)
    (size,) = search.outcome.sizes
    assert size.plan == search.outcome.best and size.mean_difference == 0
    assert len(search.world.calls) == len(set(search.world.calls))


def test_budgets_that_pay_nothing_end_the_list() -> None:
    assert run(truth, max_params=NO_LORA, sizes=4).outcome.sizes == ()


@pytest.mark.parametrize("status", [Status.DIVERGED, Status.FAIL])
def test_a_size_whose_full_run_broke_off_costs_its_place_alone(status: Status) -> None:
    small = ROOMY // 5

    def broken(plan: Plan, fidelity: Fidelity) -> float | Status:
        is_small = plan.trainable_params <= small and fidelity.split == "confirm"
        return status if is_small else truth(plan, fidelity)

    assert run(broken, sizes=3).outcome.best == run(truth).outcome.best
