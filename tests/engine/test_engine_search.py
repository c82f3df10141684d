"""The race to the finished adapter: who is trained in full, how it is judged, and what is handed over."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from toys.engine import NO_LORA, SPACE, STEP_SECONDS, TIGHT, World, kind_of, levels, problem, run
from toys.metrics import ACCURACY, ERROR_RATE, LOSS

from autopeft.errors import TrainingError
from autopeft.space import MethodSpace
from autopeft.types import Arm, Fidelity, FullRun, Plan, Status

YOURS = Arm(kind="given", label="your baseline")


def test_every_plan_of_the_list_has_a_short_run_and_the_finalists_are_trained_from_the_start() -> None:
    search = run(levels(), trials=4)
    assert search.kinds("search") == dict.fromkeys(("q+v", "lora", "ia3", "hira"), 1)
    assert search.kinds("confirm") == search.kinds("test") == {"q+v": 1, "ia3": 1}
    assert [(name, n) for name, n in search.display.phases if n] == [
        ("short runs", 4),
        ("full runs", 2),
        ("test", 2),
    ]


@pytest.mark.parametrize("challenger", [0.2, 0.5, 0.59, 0.6, 0.61, 0.63, 0.7, 0.9])
def test_the_default_is_always_trained_in_full_and_kept_unless_the_verdict_prefers_the_challenger(
    challenger: float,
) -> None:
    search = run(levels(ia3=challenger, hira=0.1, lora=0.1))
    outcome = search.outcome
    assert kind_of(outcome.baseline) == "q+v" and outcome.baseline in {m.plan for m in search.at("confirm")}
    assert outcome.challenger is not None and kind_of(outcome.challenger) == "ia3"
    is_kept = outcome.verdict.label == "default kept"
    assert outcome.best == (outcome.baseline if is_kept else outcome.challenger)
    assert outcome.verdict.mean_difference == pytest.approx(challenger - 0.6)
    assert outcome.verdict.interval_95 is not None
    low, high = outcome.verdict.interval_95
    assert low < challenger - 0.6 < high and (low > 0) == (outcome.verdict.label == "better")
    assert is_kept or challenger >= 0.59  # IA3 has less than half of the parameters
    assert not is_kept or challenger <= 0.63


def test_the_margin_of_a_loss_is_one_percent_of_the_mean_loss_of_the_baseline() -> None:
    search = run(World(truth=levels(), greater_is_better=False), metric=LOSS)
    assert search.outcome.verdict.margin == pytest.approx(0.01 * search.named("baseline").metric_mean)


def test_full_runs_decide_and_not_the_short_ones() -> None:
    outcome = run(levels({"ia3": 0.3}, ia3=0.9)).outcome
    assert outcome.verdict.label == "default kept" and outcome.best == outcome.baseline
    assert [full.name for full in outcome.full_runs] == ["best", "challenger"]


def test_the_best_of_several_challengers_is_compared() -> None:
    search = run(levels({"head": 0.95}, hira=0.1), effort="thorough", trials=4)
    assert search.kinds("confirm") == {"q+v": 3, "ia3": 3, "head": 3}
    assert kind_of(search.outcome.best) == "head"
    named = {full.name: kind_of(full.plan) for full in search.outcome.full_runs}
    arms = {kind_of(p.plan): str(p.arm) for p in search.outcome.proposals}
    assert named == {"best": "head", "baseline": "q+v", arms["ia3"]: "ia3"}


def test_the_test_split_is_read_once_and_says_nothing_of_the_choice() -> None:
    search = run(lambda plan, at: 0.9 if at.split == "test" else levels()(plan, at), seeds=3)
    tested = search.at("test")
    keys = [(m.plan, m.fidelity) for m in tested]
    assert len(keys) == len(set(keys)) == 2 * 3
    assert {m.plan for m in tested} == {search.outcome.best, search.outcome.baseline}
    assert search.outcome.verdict == run(levels(), seeds=3).outcome.verdict
    assert [full.metric_mean for full in search.outcome.test] == pytest.approx([0.9, 0.9])
    assert [full.mean_loss for full in search.outcome.test] == pytest.approx([1.1 + 1 / 200] * 2)
    assert {full.train_seconds for full in search.outcome.full_runs} == {200 * STEP_SECONDS}
    assert run(levels(), n_examples=(100, 100, 0)).outcome.test == ()


def test_a_metric_of_which_less_is_better_gives_the_mirrored_outcome() -> None:
    errors = World(truth=levels(), greater_is_better=False)
    mirrored, usual = run(errors, metric=ERROR_RATE).outcome, run(levels()).outcome
    assert (mirrored.best, mirrored.baseline, mirrored.challenger) == (
        usual.best,
        usual.baseline,
        usual.challenger,
    )
    assert mirrored.verdict.mean_difference == usual.verdict.mean_difference
    assert mirrored.verdict.interval_95 == usual.verdict.interval_95
    for error, share in zip(mirrored.full_runs, usual.full_runs, strict=True):
        assert error.metric_mean == pytest.approx(1 - share.metric_mean)


# Without LoRA, without a head, with a plan of the user.


@pytest.mark.parametrize("effort", ["quick", "normal", "thorough"])
def test_where_no_lora_fits_the_head_alone_is_the_default(effort: str) -> None:
    search = run(levels(ia3=0.35), max_params=NO_LORA, effort=effort, trials=4, seeds=1)
    assert kind_of(search.outcome.baseline) == "head"
    assert search.kinds("confirm") == {"head": 1, "ia3": 1}
    assert search.outcome.baseline.learning_rate == pytest.approx(0.03)  # the middle of 0.003 to 0.3


@pytest.mark.parametrize("max_params", [16, 24, 31])
def test_where_lora_fits_no_whole_layer_it_is_the_default_where_it_fits(max_params: int) -> None:
    outcome = run(levels(), max_params=max_params).outcome
    assert outcome.baseline.adapters and outcome.baseline.lead_method == "lora"
    assert outcome.baseline.trainable_params <= max_params


def test_a_model_without_a_head_is_compared_untrained_where_no_lora_fits() -> None:
    search = run(levels(), max_params=NO_LORA, has_head=False)
    assert search.outcome.baseline == Plan(adapters=(), learning_rate=0.0, trainable_params=0)


@pytest.mark.parametrize(("has_head", "n_heads"), [(True, 3), (False, 0)])
def test_a_thorough_search_tells_what_the_head_alone_brings(has_head: bool, n_heads: int) -> None:
    search = run(levels(), effort="thorough", trials=4, has_head=has_head)
    assert search.kinds("confirm")["head"] == n_heads
    assert ("head" in {full.name for full in search.outcome.full_runs}) == has_head


def test_the_plan_of_the_user_is_the_default_and_lora_a_challenger() -> None:
    yours = replace(problem().listed[2][2], learning_rate=1e-4)
    truth = levels({"ia3": 0.5}, hira=0.1)
    search = run(truth, user_plan=(YOURS, yours), trials=5)
    assert search.outcome.baseline == yours
    assert kind_of(search.outcome.challenger) == "ia3"  # at the rate of the list
    assert search.kinds("search")["lora"] == 1


@pytest.mark.parametrize("challenger", [0.1, 0.9])
@pytest.mark.parametrize("max_cost", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("effort", ["quick", "normal"])
def test_the_plan_of_the_user_is_not_handed_over_beyond_the_budget(
    challenger: float, max_cost: float, effort: str
) -> None:
    big = problem().listed[0][2]
    truth = levels(**{"q+v": challenger, "lora": challenger, "ia3": challenger, "hira": challenger})

    def seen(plan, fidelity):
        return 0.5 if plan == big else truth(plan, fidelity)

    outcome = run(seen, max_params=TIGHT, user_plan=(YOURS, big), max_cost=max_cost, effort=effort).outcome
    assert outcome.baseline == big
    assert outcome.best.trainable_params <= TIGHT and outcome.challenger == outcome.best


@pytest.mark.parametrize("effort", ["quick", "normal"])
def test_without_a_plan_within_the_budget_the_plan_of_the_user_ends_the_search(effort: str) -> None:
    big = problem().listed[0][2]

    def truth(plan: Plan, fidelity: Fidelity) -> float | Status:
        return 0.5 if plan == big else Status.DIVERGED

    with pytest.raises(TrainingError, match="Your baseline exceeds the budget, and no plan within"):
        run(truth, max_params=TIGHT, user_plan=(YOURS, big), effort=effort)


# Groups of examples.


def group_error(record: FullRun, *, size: int, n: int) -> float:
    """Standard error of the mean over groups; two rows of 0 and two of 1 of half weight are added."""
    n_groups, mean = n // size, record.metric_mean
    means = (np.arange(n) < round(mean * n)).reshape(n_groups, size).mean(axis=1)
    squares = ((means - mean) ** 2).sum() + (mean**2 + (1 - mean) ** 2) / size**2
    return math.sqrt(squares / n_groups / (n_groups - 1))


def test_intervals_and_standard_errors_count_groups_in_place_of_examples() -> None:
    """The plans differ on a tenth of the examples, which is one group of eight."""
    groups = {"confirm": [i // 50 for i in range(400)]}
    settings = {"n_examples": (100, 400, 50), "metric": ACCURACY}
    alone, grouped = run(levels(), **settings).outcome, run(levels(), groups=groups, **settings).outcome
    assert alone.verdict.label == "better" != grouped.verdict.label
    for record in grouped.full_runs:
        assert record.metric_std_error == pytest.approx(group_error(record, size=50, n=400))


# What the user's settings leave of the list.


@pytest.mark.parametrize("only", ["lora", "ia3", "hira"])
def test_challengers_have_the_methods_of_the_space_alone(only: str) -> None:
    search = run(levels(), space=SPACE.only([only]))
    challengers = {p.plan.lead_method for p in search.outcome.proposals if p.arm.kind != "baseline"}
    assert challengers <= {only}
    assert search.outcome.baseline.lead_method == "lora"


def test_equal_plans_are_measured_once() -> None:
    space = SPACE.model_copy(update={"methods": {"ia3": MethodSpace(learning_rate=(0.01, 0.01))}})
    search = run(levels(), space=space, trials=16)
    calls = search.world.calls
    assert len(search.outcome.proposals) == 16 and len(calls) == len(set(calls)) < 16
