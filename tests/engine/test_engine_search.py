"""What a search proposes and promotes: plans of the user, rates, cost, fronts, limits."""

from __future__ import annotations

import math
from dataclasses import replace

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys.engine import (
    ROOMY,
    SPACE,
    World,
    baseline_plans,
    context,
    levels,
    method_of,
    run,
)

from autopeft.engine import Schedule, rungs, stretched
from autopeft.engine.ranking import front
from autopeft.records import Arm, Fidelity, LimitSpec, Measurement, Plan, Status
from autopeft.space import MethodSpace, Policy, plan_of

optuna.logging.set_verbosity(optuna.logging.ERROR)


def by_source(outcome, *sources):
    return [proposal for proposal in outcome.proposals if proposal.source in sources]


# Plans of the user.


YOURS = Arm(kind="given", label="yours")


def given_plan(max_params=ROOMY, rate=0.0, layer_share=0.5):
    policy = Policy(method="lora", placement="q+v", layer_share=layer_share, learning_rate=rate)
    return plan_of(policy, context(max_params))


@pytest.mark.parametrize(("rate", "n_rates"), [(0.0, 3), (4e-3, 3)])
def test_users_plan_is_tried_at_as_many_rates_as_the_baseline_and_is_confirmed(rate, n_rates):
    plan = given_plan(rate=rate)
    outcome = run(levels(), trials=30, user_plans=((YOURS, plan),)).outcome
    plans = [p.plan for p in by_source(outcome, "enqueued") if p.arm == YOURS]
    assert {p.adapters for p in plans} == {plan.adapters}
    assert len({p.learning_rate for p in plans}) == n_rates
    assert not rate or rate in {p.learning_rate for p in plans}
    (confirmed,) = [c for c in outcome.confirmations if c.name == "given: yours"]
    assert confirmed.plan.adapters == plan.adapters


def test_users_plan_that_is_far_behind_is_confirmed_on_as_many_seeds_as_the_best():
    plan = given_plan()

    def truth(tried: Plan, fidelity: Fidelity) -> float:
        is_yours = tried.adapters == plan.adapters and fidelity.split == "confirm"
        return 0.2 if is_yours else levels()(tried, fidelity)

    outcome = run(truth, trials=30, seeds=3, user_plans=((YOURS, plan),)).outcome
    seeds = {c.name: c.seeds for c in outcome.confirmations}
    assert outcome.smallest.adapters != plan.adapters
    assert len(seeds["head"]) == 1 and seeds["given: yours"] == seeds["best"]


@pytest.mark.parametrize(("trials", "n_plans"), [(2, 1), (3, 2), (5, 2)])
def test_users_plans_are_measured_where_the_trials_are_few(trials, n_plans, caplog):
    plans = [(replace(YOURS, label=f"yours {n}"), given_plan(layer_share=n / 2)) for n in (1, 2)[:n_plans]]
    outcome = run(levels(), trials=trials, user_plans=tuple(plans)).outcome
    arms = [proposal.arm for proposal in by_source(outcome, "enqueued")]
    assert len(arms) == trials and arms[0].kind == "baseline"
    assert {arm for arm, _ in plans} <= set(arms)
    assert "is not measured" not in caplog.text


def test_users_plan_that_one_trial_leaves_out_is_named(caplog):
    run(levels(), trials=1, user_plans=((YOURS, given_plan()),))
    assert "The plan of yours is not measured, since the trials (1)" in caplog.text


def test_users_plan_over_the_budget_is_measured_and_cannot_win():
    dear = given_plan(max_params=10 * ROOMY, layer_share=1.0)
    assert dear.trainable_params > ROOMY

    def truth(plan: Plan, fidelity: Fidelity) -> float:
        return 0.95 if plan.adapters == dear.adapters else levels()(plan, fidelity)

    outcome = run(truth, trials=24, user_plans=((YOURS, dear),)).outcome
    assert outcome.best.trainable_params <= ROOMY
    assert {c.name for c in outcome.confirmations} >= {"given: yours", "best", "baseline"}


# What it costs.


def schedule(full_steps, **settings):
    fields = {"confirm_steps": full_steps, "batch_size": 32, "n_search": 300, "n_confirm": 300, "n_test": 0}
    return Schedule(rung_steps=rungs(full_steps), full_steps=full_steps, **{**fields, **settings})


def most_spent(rung_schedule: Schedule, n_first: int) -> float:
    """Every rung full, by hand."""
    spent = n_first * rung_schedule.rung_cost(0) + 2 * rung_schedule.rung_cost(
        rung_schedule.last, is_new=True
    )
    for index in range(1, rung_schedule.last + 1):
        new = rung_schedule.rung_steps[index] - rung_schedule.rung_steps[index - 1]
        examples = rung_schedule.rung(index, seed=0).eval_examples
        spent += rung_schedule.n_promoted(index) * (new + 0.5 * examples / 32) / rung_schedule.full_steps
    return spent


@given(st.integers(40, 20_000), st.integers(4, 80), st.floats(0.5, 40))
def test_stretched_rungs_keep_to_the_cost_and_use_it(full_steps, n_first, max_cost):
    plain = schedule(full_steps)
    longest = stretched(plain, n_first=n_first, max_cost=max_cost)
    assert longest.rung_steps[0] == plain.rung_steps[0] and longest.last <= 2
    if most_spent(plain, n_first) > max_cost:
        assert longest.rung_steps == plain.rung_steps
        return
    assert most_spent(longest, n_first) <= max_cost + 1e-9
    longer = replace(longest, rung_steps=(*longest.rung_steps[:-1], longest.rung_steps[-1] + 1))
    is_longest = longest.rung_steps[-1] >= round(0.7 * full_steps)
    is_at_a_step = longest.rung_steps[-1] + 1 >= 3.5 * longest.rung_steps[0] and longest.last == 1
    assert is_longest or is_at_a_step or most_spent(longer, n_first) > max_cost


def test_sampled_plan_with_the_sites_and_ranks_of_a_baseline_counts_as_the_baseline():
    """Only a rate that the queue does not try is good for LoRA on q and v."""
    queries = [plan.adapters for plan in baseline_plans()][-1]

    def truth(plan: Plan, fidelity: Fidelity) -> float:
        is_near = abs(math.log(plan.learning_rate / 7e-3)) < 0.35
        return 0.9 if plan.adapters == queries and is_near else 0.5 * levels()(plan, fidelity)

    space = SPACE.model_copy(update={"methods": {"lora": MethodSpace(placement=("all", "q+v"))}})
    search = run(truth, trials=40, space=space)
    outcome = search.outcome
    assert outcome.best.adapters == queries
    assert outcome.best == outcome.baseline and outcome.verdict.label == "default kept"


# Rungs that disagree.


# Seeds.


def test_confirmation_stops_once_the_interval_decides():
    outcome = run(levels(ia3=0.9), seeds=5).outcome
    named = {c.name: c for c in outcome.confirmations}
    assert outcome.verdict.label == "better"
    assert len(named["best"].seeds) == len(named["baseline"].seeds) == 3
    assert len(named["smallest"].seeds) <= 3


# Fronts, and who leads.


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=12, unique=True))
def test_front_holds_exactly_what_nothing_beats(points):
    fidelity = Fidelity(split="search", train_steps=1, train_examples=1, eval_examples=1, seed=0)
    measured = [
        Measurement(
            plan=Plan(adapters=(), learning_rate=1.0 + i, trainable_params=n),
            fidelity=fidelity,
            status=Status.COMPLETE,
            loss=float(loss),
        )
        for i, (n, loss) in enumerate(points)
    ]
    kept = [(m.plan.trainable_params, m.loss) for m in front(measured)]
    beaten = {(n, a) for (n, a) in points for (k, b) in points if k <= n and b <= a and (k, b) != (n, a)}
    assert kept == sorted(set(points) - beaten)


class Late(World):
    """Has the metric from 12 steps on, and never where it is `missing` altogether."""

    missing = False

    def measure(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        measurement = super().measure(plan, fidelity)
        has_metric = fidelity.split != "search" or (fidelity.train_steps >= 12 and not self.missing)
        return measurement if has_metric else replace(measurement, metric=None, example_scores=())


def test_search_without_the_metric_at_lower_rungs_gives_the_same_answer():
    late, always = (run(world(quality=levels())).outcome for world in (Late, World))
    assert (late.best, late.baseline, late.smallest) == (always.best, always.baseline, always.smallest)
    assert late.verdict == always.verdict


def test_plans_without_any_metric_are_ranked_by_loss_and_none_is_taken_for_the_smallest():
    world = Late(quality=levels(ia3=0.9))
    world.missing = True
    outcome = run(world, confirm="none").outcome
    assert method_of(outcome.best) == "ia3" and outcome.smallest == outcome.best


def test_a_limit_on_ranks_binds_the_baseline_of_a_space_without_lora():
    only_ia3 = SPACE.model_copy(update={"methods": {"ia3": SPACE.methods["ia3"]}})
    outcome = run(levels(), space=only_ia3, limits=LimitSpec(max_rank=1)).outcome
    assert {a.rank for a in outcome.baseline.adapters} == {1}


def test_baseline_plans_of_the_toys_are_the_engines():
    enqueued = {p.plan for p in by_source(run(levels()).outcome, "enqueued") if p.arm.kind == "baseline"}
    assert enqueued == set(baseline_plans())
