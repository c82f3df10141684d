"""Which plans go on from their short runs."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.engine import LIST, ROOMY, SPACE, kind_of, levels, problem, run
from toys.metrics import ACCURACY, ERROR_RATE

from autopeft.commands.forecast import planned_runs
from autopeft.engine.judge import rank
from autopeft.types import Fidelity, Measurement, Plan, Status

N_ROWS = 12


@st.composite
def short_runs(draw: st.DrawFn) -> list[Measurement]:
    """Short runs of some plans: scores of 0 and 1, and a loss; a few have diverged."""
    made = []
    for number in range(draw(st.integers(1, 6))):
        plan = Plan(adapters=(), learning_rate=1.0 + number, trainable_params=draw(st.integers(0, 2)))
        fidelity = problem(n_examples=(N_ROWS, 2, 0)).lengths.short(seed=0)
        loss = draw(st.one_of(st.none(), st.integers(1, 9).map(float)))
        scores = tuple(draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=N_ROWS, max_size=N_ROWS)))
        finished = {"loss": loss, "metric": sum(scores) / N_ROWS, "example_scores": scores}
        status = Status.DIVERGED if loss is None else Status.COMPLETE
        made.append(
            Measurement(plan=plan, fidelity=fidelity, status=status, **(finished if loss is not None else {}))
        )
    return made


def is_clearly_ahead(first: Measurement, second: Measurement, sign: int) -> bool:
    """Whether the metric of one is two standard errors of the paired difference ahead of another's."""
    gaps = sign * (np.array(first.example_scores) - np.array(second.example_scores))
    return bool(gaps.mean() > 2 * gaps.std(ddof=1) / math.sqrt(N_ROWS) + 1e-6)


@pytest.mark.parametrize("metric", [ACCURACY, ERROR_RATE])
@given(short_runs())
def test_plans_are_ranked_by_loss_where_two_standard_errors_of_the_metric_do_not_tell(
    metric, made: list[Measurement]
) -> None:
    sign = 1 if metric.greater_is_better else -1
    ranked = rank(problem(metric=metric), made)
    assert sorted(m.plan.learning_rate for m in ranked) == [
        m.plan.learning_rate for m in made if m.loss is not None
    ]
    for place, first in enumerate(ranked):
        rest = ranked[place:]
        best = max(sign * m.metric for m in rest)
        leaders = [m for m in rest if sign * m.metric == best]
        # 1. No plan with the best metric of those that are left is clearly ahead of the one that comes first.
        # 2. Of the plans with a lower loss each is clearly behind such a plan.
        assert not all(is_clearly_ahead(leader, first, sign) for leader in leaders)
        for other in rest[1:]:
            if other.loss < first.loss:
                assert any(is_clearly_ahead(leader, other, sign) for leader in leaders)


@pytest.mark.parametrize(
    ("short", "is_challenger"),
    [(0.8, True), (0.70, True), (0.69, True), (0.67, True), (0.64, False), (0.30, False)],
    ids=["first", "level", "a-point-behind", "within-two-errors", "beyond", "far-behind"],
)
def test_a_slow_starter_is_the_challenger_unless_another_is_clearly_ahead(
    short: float, is_challenger: bool
) -> None:
    """Three in 100 rows apart are 1.7 paired standard errors, six in 100 are 2.5."""
    search, gap = run(levels({"hira": 0.95}, hira=short)), 0.7 - short
    assert (gap <= 2 * math.sqrt(max(0.0, gap) * (1 - gap) / 99) + 1e-9) == is_challenger
    assert search.kinds("confirm") == {"q+v": 1, "hira" if is_challenger else "ia3": 1}


@pytest.mark.parametrize("gain", [-0.05, 0.0, 0.05])
def test_the_best_plan_of_the_sampler_joins_the_challenger_of_the_list_if_its_loss_is_lower(gain) -> None:
    listed = {plan for _, _, plan in problem().listed}

    def truth(plan: Plan, fidelity: Fidelity) -> float:
        usual = levels()(plan, fidelity)
        return usual if plan in listed or kind_of(plan) != "ia3" else usual + gain

    search = run(truth)
    assert {p.plan for p in search.outcome.proposals if p.source == "list"} == listed
    in_full = [m.plan for m in search.at("confirm")]
    assert [kind_of(plan) for plan in in_full[:2]] == ["q+v", "ia3"] and set(in_full[:2]) < listed
    assert len(in_full) == (3 if gain > 0 else 2) and listed.isdisjoint(in_full[2:])
    assert Counter(m.fidelity for m in search.records) <= Counter(planned_runs(search.problem))
    assert (search.outcome.best in listed) == (gain <= 0)


def test_in_a_thorough_search_a_slow_starter_takes_no_other_challengers_place() -> None:
    search = run(levels(hira=0.69), effort="thorough", trials=16, seeds=1)
    assert search.kinds("confirm") == {"q+v": 1, "hira": 1, "ia3": 1, "head": 1}


def test_a_plan_that_does_not_start_slowly_gets_no_second_chance() -> None:
    search = run(levels({"ia3": 0.95}, ia3=0.70, hira=0.69), max_params=ROOMY)
    assert search.kinds("confirm") == {"q+v": 1, "hira": 1}
    other = run(levels({"lora": 0.95}, lora=0.59, hira=0.1))  # within two errors of q and v
    assert kind_of(other.outcome.baseline) == "q+v"


@pytest.mark.parametrize("kind", ["q+v", "lora"])
def test_the_best_baseline_is_trained_in_full(kind: str) -> None:
    search = run(levels(**{"q+v": 0.5, "lora": 0.5, kind: 0.6}))
    assert search.kinds("confirm") == {kind: 1, "ia3": 1}


def test_in_a_space_of_the_baselines_alone_another_of_them_is_the_challenger() -> None:
    lora = {
        "lora": SPACE.methods["lora"].model_copy(update={"placement": ("all",), "layer_share": (1.0, 1.0)})
    }
    first = {"classification": tuple(entry for entry in LIST if entry.baseline)}
    space = SPACE.model_copy(update={"methods": lora, "listed": first})
    search = run(levels(lora=0.8, ia3=0.1), space=space, trials=2)
    assert (kind_of(search.outcome.baseline), kind_of(search.outcome.challenger)) == ("lora", "q+v")
    other = run(levels({"lora": Status.DIVERGED}, lora=0.8), space=space, trials=2).outcome
    assert kind_of(other.baseline) == kind_of(other.best) == "q+v"
