"""Confirmation and test split by several workers: side by side, and the same table as with one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor

import optuna
import pytest
from toys.engine import Counting, Display, World, baseline_plans, levels, method_of, run

from autopeft.engine import Ledger
from autopeft.records import Fidelity, Measurement, Plan

optuna.logging.set_verbosity(optuna.logging.ERROR)


def near(plan: Plan, fidelity: Fidelity) -> float | None:
    """IA3 is better by so little that best and baseline need five seeds."""
    return levels(ia3=0.62)(plan, fidelity)


class Eight(ThreadPoolExecutor):
    """Eight workers, with the confirming runs in the order in which they got them."""

    n_workers = 8

    def __init__(self) -> None:
        super().__init__(self.n_workers)
        self.confirming: list[tuple[Plan, int]] = []

    def submit(self, fn: Callable[..., object], /, *args: object) -> Future[object]:
        plan, fidelity = args
        if fidelity.split == "confirm":
            self.confirming.append((plan, fidelity.seed))
        return super().submit(fn, *args)


def test_idle_workers_begin_the_head_before_best_and_baseline_have_all_their_seeds() -> None:
    executor = Eight()
    outcome = run(near, seeds=5, executor=executor).outcome
    assert outcome == run(near, seeds=5).outcome
    head = next(plan for plan, _ in executor.confirming if method_of(plan) == "head")
    assert executor.confirming.index((head, 1)) < executor.confirming.index((outcome.best, 4))
    assert max(Counter(executor.confirming).values()) == 1


@pytest.mark.parametrize("max_cost", [24, 26, 28, 30])
def test_what_the_cost_does_not_pay_is_not_begun_either(max_cost: int) -> None:
    """With 26 and 30 R the head gets four seeds of five."""
    alone, together = (run(near, seeds=5, max_cost=max_cost, executor=e) for e in (None, Eight()))
    assert together.outcome == alone.outcome
    assert Counter(together.world.calls) == Counter(alone.world.calls)


def test_the_whole_test_split_is_under_way_at_once() -> None:
    executor = Counting()
    search = run(near, executor=executor)
    n_tested = len(search.at("test"))
    assert executor.under_way[-n_tested:] == list(range(1, n_tested + 1))
    assert n_tested > 2
    assert search.outcome == run(near).outcome


class Two:
    """Two workers: all but the last of some measurements end at once, the last one after two looks."""

    name, n_workers = "two", 2

    def __init__(self, n_measurements: int) -> None:
        self.n_left, self.timeouts, self.late = n_measurements, list[float | None](), Future[Measurement]()

    def submit(self, fn: Callable[..., Measurement], /, *args: object) -> Future[Measurement]:
        self.n_left -= 1
        future = Future[Measurement]() if self.n_left else self.late
        self.result = fn(*args)
        if self.n_left:
            future.set_result(self.result)
        return future

    def wait_for_any(self, futures: Collection[Future[Measurement]], *, timeout: float | None) -> None:
        assert list(futures) == [self.late]
        self.timeouts.append(timeout)
        if len(self.timeouts) == 3:
            self.late.set_result(self.result)


@pytest.mark.parametrize(("n_seconds", "patience"), [(10, 60.0), (50, 150.0)])
def test_what_idle_workers_wait_for_is_told(
    caplog: pytest.LogCaptureFixture, n_seconds: int, patience: float
) -> None:
    """After a minute, or three times as long as the longest of the others took."""
    *others, last = requests = [(plan, fidelity(steps=n_seconds)) for plan in baseline_plans()]
    executor = Two(len(requests))
    ledger = Ledger(
        executor=executor,
        measure=World(quality=levels()).measure,
        progress=Display(),
        wait_for_any=executor.wait_for_any,
    )
    with caplog.at_level("INFO", logger="autopeft"):
        measured = ledger.measure_all(requests)
    assert [(m.plan, m.fidelity) for m in measured] == requests
    assert executor.timeouts == [patience] * 3
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert all(last[0].digest in line and "Idle workers: 1" in line for line in told)
    assert not any(plan.digest in line for plan, _ in others for line in told)
    assert all(f"at most {n_seconds} s" in line for line in told)


def fidelity(*, steps: int) -> Fidelity:
    return Fidelity(split="search", train_steps=steps, train_examples=4 * steps, eval_examples=10, seed=0)
