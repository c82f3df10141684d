"""Findings beside the verdict: the winner's curse, plans as good as the best, the worst seed."""

from __future__ import annotations

import re

import pytest
from scipy import stats
from toys.engine import ROOMY, SITES, OwnLoss, World, is_baseline, levels, method_of, run
from toys.metrics import ERROR_RATE, LOSS

from autopeft.evidence import optimism_sentence
from autopeft.records import Adapter, Arm, Fidelity, LimitSpec, MetricFacts, Plan
from autopeft.space import MethodSpace, Space


def luck(plan: Plan, fidelity: Fidelity) -> float:
    """IA3 looks better by ten points than it is."""
    return levels(ia3=0.9 if fidelity.split == "search" else 0.8)(plan, fidelity)


def sentence_of(outcome, start: str) -> str:
    (sentence,) = [text for text in outcome.sentences if text.startswith(start)]
    return sentence


def test_what_the_search_promised_is_set_against_what_was_confirmed() -> None:
    outcome = run(luck, seeds=3, n_confirm=400).outcome
    assert method_of(outcome.best) == "ia3"
    sentence = sentence_of(outcome, "The search promised")
    promised, confirmed = (float(x) for x in re.findall(r"[+-]\d+\.\d", sentence)[:2])
    named = {c.name: c.metric_mean for c in outcome.confirmations}
    assert abs(confirmed - 100 * (named["best"] - named["baseline"])) < 0.06
    assert 8 < promised - confirmed < 12  # ten points less, but for scores that are whole examples
    assert "worse than promised" in sentence


@pytest.mark.parametrize(("metric", "factor", "unit"), [(LOSS, 1, ""), (ERROR_RATE, 100, " points")])
def test_fewer_errors_are_told_in_the_unit_of_the_metric(
    metric: MetricFacts, factor: float, unit: str
) -> None:
    outcome = run(World(quality=luck, counts_errors=True), metric=metric, seeds=3, n_confirm=400).outcome
    named = {c.name: c.metric_mean for c in outcome.confirmations}
    fewer = factor * (named["baseline"] - named["best"])
    promise = sentence_of(outcome, f"The search promised on its own split that the {metric.name} of the best")
    below = [float(number) for number in re.findall(rf"(\d+\.\d+){unit} below", promise)]
    assert below == pytest.approx([factor * 0.4, fewer], abs=factor * 0.03)  # of 100 and of 400 examples
    told = re.search(
        rf"baseline: its {metric.name} is lower by (\d+\.\d+){unit} \(95", outcome.verdict.sentence
    )
    assert told and float(told[1]) == pytest.approx(fewer, abs=factor * 0.001)


def test_worst_seed_comes_with_the_chance_of_divergence() -> None:
    outcome = run(levels(ia3=0.9), seeds=3).outcome
    sentence = sentence_of(outcome, "The worst seed of the best plan")
    (best,) = [c for c in outcome.confirmations if c.name == "best"]
    assert f"accuracy {100 * min(best.metrics):.1f} %" in sentence
    # None of n diverged: the 95 % bound solves (1 - p)**n = 0.025.
    bound = 1 - 0.025 ** (1 / len(best.seeds))
    assert f"0 of {len(best.seeds)} seeds diverged" in sentence and f"{100 * bound:.0f} %" in sentence
    assert abs(bound - stats.beta.ppf(0.975, 1, len(best.seeds))) < 1e-12


def test_plans_as_good_as_the_best_are_listed_with_the_smallest() -> None:
    def truth(plan: Plan, fidelity: Fidelity) -> float:
        return 0.8 if method_of(plan) != "head" else 0.7999

    outcome = run(truth, n_confirm=400).outcome
    sentence = sentence_of(outcome, "Proven to lose less than the margin")
    # All tables are alike, so that every plan is within the margin; the head alone is the smallest.
    assert "smallest (0 parameters)" in sentence and "baseline (" in sentence
    assert outcome.verdict.as_good[0] == "smallest" and "baseline" in outcome.verdict.as_good
    nothing_near = run(levels(ia3=0.9), seeds=3).outcome
    assert nothing_near.verdict.as_good == ()
    assert sentence_of(nothing_near, "No other of the 3 confirmed plans")


def test_a_confirmed_small_plan_keeps_its_name_where_the_baseline_is_smaller_than_expected() -> None:
    """IA3 has 64 parameters, less than half of LoHa's 288, and more than half of the baseline's 112."""

    def truth(plan: Plan, fidelity: Fidelity) -> float:
        is_search = fidelity.split == "search"
        if plan.trainable_params == 64 and method_of(plan) == "ia3":
            return 0.76 if is_search else 0.6
        if plan.trainable_params == 112:  # LoRA of rank 1 everywhere, the baseline
            return 0.7
        return (0.8 if is_search else 0.6) if method_of(plan) == "loha" else 0.3

    methods = {
        "loha": MethodSpace(placement=("all",)),
        "ia3": MethodSpace(placement=("all", "q+v")),
        "lora": MethodSpace(placement=("all", "q+v"), max_rank=1),
    }
    space, limits = Space(about="toy", methods=methods), LimitSpec(max_rank=1)
    outcome = run(truth, space=space, limits=limits, seeds=3, n_confirm=200).outcome
    assert outcome.best.trainable_params == outcome.baseline.trainable_params == 112
    confirmed = {m.plan for m in outcome.measurements if m.fidelity.split == "confirm"}
    assert {c.plan for c in outcome.confirmations} == confirmed
    assert {c.name: c.plan.trainable_params for c in outcome.confirmations}["smaller plan"] == 64


def test_a_better_plan_beyond_the_budget_is_not_called_unproven() -> None:
    sites = tuple(Adapter(method="lora", site=site.name, rank=64, scale=1.0) for site in SITES)
    large = Plan(adapters=sites, learning_rate=1e-2, trainable_params=64 * 112)

    def truth(plan: Plan, fidelity: Fidelity) -> float:
        return 0.95 if plan.adapters == sites else levels(ia3=0.4)(plan, fidelity)

    arm = Arm(kind="given", label="your baseline")
    outcome = run(truth, user_plans=((arm, large),), seeds=3, n_confirm=200).outcome
    assert large.adapters in [c.plan.adapters for c in outcome.confirmations]
    assert outcome.best.trainable_params <= ROOMY
    assert not any(text.startswith("No other of the") for text in outcome.sentences)


@pytest.mark.parametrize("falls", [False, True])
def test_a_plan_that_caution_put_first_is_told(falls: bool) -> None:
    """All losses stay where they were, but for a hundredth of a percent; baselines do a little worse."""

    def loss(plan: Plan, fidelity: Fidelity) -> float:
        first = 1.0 if fidelity.train_steps <= 3 or not falls else 0.5
        return first + 1e-4 * is_baseline(plan)

    world = OwnLoss(quality=lambda plan, fidelity: 0.5, loss=loss)
    outcome = run(world, confirm="none").outcome
    start = "The trial runs hardly learned, so a default"
    told = [text for text in outcome.sentences if text.startswith(start)]
    assert is_baseline(outcome.best) == bool(told) == (not falls)


def test_without_confirmation_there_are_no_findings() -> None:
    assert run(levels(), confirm="none").outcome.sentences == ()


@pytest.mark.parametrize(
    ("promised", "confirmed", "end"),
    [
        (-0.237, -0.25, "-25.0, another 1.3 worse."),
        (-0.237, 0.1, "+10.0, better than there."),
        (
            -0.237,
            -0.236,
            "-23.6, the same within one standard error.",
        ),
    ],
)
def test_a_plan_that_was_below_the_baseline_promised_nothing(
    promised: float, confirmed: float, end: str
) -> None:
    metric = MetricFacts(name="micro-F1", greater_is_better=True, is_share=True)
    settings = {"promised": promised, "confirmed": confirmed, "std_error": 0.01, "n_tried": 40}
    sentence = optimism_sentence(**settings, metric=metric)
    assert sentence == (
        "On the split of the search the plan chosen of 40, for its loss, for its size or since it starts "
        f"slowly, was 23.7 points of micro-F1 below the baseline; the confirmation gave {end}"
    )
    turned = optimism_sentence(**settings, metric=ERROR_RATE)
    assert "slowly, had error-rate 23.7 points above the baseline's; the confirmation gave" in turned
