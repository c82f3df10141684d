"""What `engine.search` does after the rungs: confirmation, verdict, test split."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import optuna
import pytest
from scipy import stats
from toys.engine import NO_LORA, SPACE, Quality, Run, World, is_baseline, levels, method_of, problem, run
from toys.metrics import ACCURACY, ERROR_RATE

from autopeft.engine.judge import scores_of
from autopeft.records import (
    Confirmation,
    Fidelity,
    Measurement,
    MetricFacts,
    Plan,
    Status,
)

optuna.logging.set_verbosity(optuna.logging.ERROR)


@cache
def usual() -> Run:
    """A search of 12 trials where IA3 is clearly best; to be read, not changed."""
    return run(levels(ia3=0.9), seeds=3, trials=12)


def by_name(confirmations: tuple[Confirmation, ...]) -> dict[str, Confirmation]:
    return {confirmation.name: confirmation for confirmation in confirmations}


def nothing_beats_the_baseline(plan: Plan, fidelity: Fidelity) -> float | None:
    return 0.95 if is_baseline(plan) else levels()(plan, fidelity)


def diverging_on(*seeds: int) -> Quality:
    def quality(plan: Plan, fidelity: Fidelity) -> float | None:
        is_lost = method_of(plan) == "ia3" and fidelity.seed in seeds
        return None if is_lost else levels(ia3=0.9)(plan, fidelity)

    return quality


# Seeds and order.


@pytest.mark.parametrize(("seed", "seeds"), [(0, 2), (0, 3), (2, 3)])
def test_all_plans_are_confirmed_on_the_same_fresh_seeds(seed: int, seeds: int) -> None:
    search = run(levels(head=0.69), seed=seed, seeds=seeds)
    assert {m.fidelity.seed for m in search.at("search")} == {seed}
    fresh = {confirmation.seeds for confirmation in search.outcome.confirmations}
    assert len(fresh) == 1
    assert len(set(*fresh)) == seeds and seed not in set(*fresh)


def test_confirmation_takes_its_steps_on_its_own_split() -> None:
    confirmed = usual().at("confirm")
    assert {
        (m.fidelity.train_steps, m.fidelity.train_examples, m.fidelity.eval_examples) for m in confirmed
    } == {(30, 120, 40)}
    assert not usual().at("confirm", 12) and not usual().at("search", 30)


# A pair of 40 examples of which g times 40 differ has a standard error of sqrt(g (1 - g) / 39), so that four
# of them are exceeded from 12 examples on (0.30 > 0.294), and not by 11 (0.275 < 0.286).
@pytest.mark.parametrize(("n_behind", "n_seeds"), [(0, 3), (11, 3), (12, 1), (20, 1)])
def test_the_head_alone_has_one_seed_where_that_one_leaves_no_doubt(n_behind: int, n_seeds: int) -> None:
    best = 0.8

    def quality(plan: Plan, fidelity: Fidelity) -> float:
        is_confirmed_head = method_of(plan) == "head" and fidelity.split == "confirm"
        return best - n_behind / 40 if is_confirmed_head else levels(ia3=best)(plan, fidelity)

    confirmed = by_name(run(quality, seeds=3).outcome.confirmations)
    n_wrong = 40 * (confirmed["best"].metric_mean - confirmed["head"].metric_mean)
    assert round(n_wrong) == n_behind
    assert len(confirmed["best"].seeds) == 3
    assert len(confirmed["head"].seeds) == n_seeds


def test_best_smallest_baseline_and_head_are_all_reported() -> None:
    named = by_name(usual().outcome.confirmations)
    assert list(named) == ["best", "smallest", "baseline", "head"]
    assert named["best"].plan == usual().outcome.best
    assert named["baseline"].plan == usual().outcome.baseline
    assert is_baseline(named["baseline"].plan)
    assert named["head"].plan.adapters == ()


def test_a_summary_holds_the_means_over_seeds() -> None:
    for name, confirmation in by_name(usual().outcome.confirmations).items():
        rows = [m for m in usual().at("confirm") if m.plan == confirmation.plan]
        assert confirmation.metrics == pytest.approx([m.metric for m in rows]), name
        assert confirmation.metric_mean == pytest.approx(np.mean([m.metric for m in rows]))
        assert confirmation.mean_loss == pytest.approx(np.mean([m.loss for m in rows]))
        assert confirmation.train_seconds == 30


# The verdict.


def test_a_clearly_better_plan_is_called_better() -> None:
    outcome = usual().outcome
    best, baseline = (by_name(outcome.confirmations)[name].metric_mean for name in ("best", "baseline"))
    assert method_of(outcome.best) == "ia3"
    assert outcome.verdict.label == "better"
    assert outcome.verdict.mean_difference == pytest.approx(best - baseline)
    assert outcome.verdict.fidelity == "full"


def test_a_metric_where_less_is_better_gives_the_same_verdict() -> None:
    world = World(quality=levels(ia3=0.9), counts_errors=True)
    outcome = run(world, seeds=3, trials=12, metric=ERROR_RATE).outcome
    assert (outcome.best, outcome.smallest) == (usual().outcome.best, usual().outcome.smallest)
    sentence = outcome.verdict.sentence
    assert replace(usual().outcome.verdict, sentence=sentence) == outcome.verdict
    assert "better than the baseline: its error-rate is lower by " in sentence
    for name, confirmation in by_name(usual().outcome.confirmations).items():
        errors = by_name(outcome.confirmations)[name]
        assert errors.metric_mean == pytest.approx(1 - confirmation.metric_mean)
        assert errors.metric_std_error == pytest.approx(confirmation.metric_std_error)


def test_a_baseline_that_wins_is_kept_and_not_compared_with_itself() -> None:
    search = run(nothing_beats_the_baseline, seeds=5)
    outcome = search.outcome
    assert outcome.best == outcome.baseline == outcome.incumbent == outcome.smallest
    assert outcome.verdict.label == "default kept"
    assert outcome.verdict.sentence.startswith("The baseline is kept: no other plan promised more")
    assert outcome.verdict.interval_95 is None
    seeds = Counter(m.plan for m in search.at("confirm") if m.plan.adapters)
    assert seeds == {outcome.baseline: 1}  # for its score and its weights
    assert by_name(outcome.test)["best"].seeds == (1,)


@pytest.mark.parametrize("is_error_rate", [False, True])
@pytest.mark.parametrize("lost", [(2,), (1, 2, 3)])
def test_a_diverged_seed_counts_as_wrong_on_every_example(lost: tuple[int, ...], is_error_rate: bool) -> None:
    world = World(quality=diverging_on(*lost), counts_errors=is_error_rate)
    outcome = run(world, seeds=3, metric=ERROR_RATE if is_error_rate else ACCURACY).outcome
    is_kept = len(lost) == 3  # two good seeds of IA3 are worth more than three of LoRA
    first = by_name(outcome.confirmations)["incumbent" if is_kept else "best"]
    wrong = 1.0 if is_error_rate else 0.0
    assert method_of(first.plan) == "ia3"
    assert [first.metrics[seed - 1] for seed in lost] == [wrong] * len(lost)
    assert outcome.verdict.label == ("default kept" if is_kept else "inconclusive")
    assert (first.mean_loss == math.inf) == is_kept


@pytest.mark.parametrize(
    ("is_error", "span", "lost_score"), [(False, None, 0.0), (True, None, -2.1), (True, 5.0, -5.0)]
)
def test_a_diverged_seed_has_an_f1_of_0_or_the_loss_of_the_worst_example_or_the_worst_there_is(
    is_error: bool, span: float | None, lost_score: float
) -> None:
    """Pseudo-values of an F1 may lie far below 0, which no F1 does."""
    facts = MetricFacts(name="m", greater_is_better=not is_error, is_share=not is_error, score_span=span)
    plan = Plan(adapters=(), learning_rate=1e-3, trainable_params=0)
    fidelity = Fidelity(split="confirm", train_steps=9, train_examples=9, eval_examples=3, seed=1)
    good = Measurement(
        plan=plan,
        fidelity=fidelity,
        status=Status.COMPLETE,
        metric=0.9,
        loss=0.5,
        example_scores=(1.3, -0.7, 2.1)[::-1],
    )
    lost = replace(good, status=Status.DIVERGED, metric=None, loss=None, example_scores=())
    tables = scores_of(problem(metric=facts), [good, lost])
    assert [sum(row) / 3 for row in tables] == pytest.approx([-0.9 if is_error else 0.9, lost_score])


def test_without_confirmation_there_is_no_verdict_and_no_look_at_the_test_split() -> None:
    search = run(levels(), confirm="none")
    assert search.outcome.verdict.label == "none"
    assert (search.outcome.confirmations, search.outcome.test) == ((), ())
    assert {m.fidelity.split for m in search.outcome.measurements} == {"search"}


def test_without_confirmation_no_plan_but_the_best_is_called_the_smallest() -> None:
    """The head is almost as good as the best on the search split, and nothing proves that it stays so.

    Short runs alone tell too little of it, so that without a confirmation it is not even the smallest.
    """
    proven = run(levels(head=0.69), trials=12).outcome
    outcome = run(levels(head=0.69), trials=12, confirm="none").outcome
    assert proven.smallest.adapters == () != outcome.smallest.adapters
    assert proven.best != proven.smallest
    assert outcome.best == outcome.smallest
    assert outcome.verdict.smallest_equivalent == "the best itself"


def test_where_no_lora_fits_the_head_alone_is_the_baseline() -> None:
    space = SPACE.model_copy(update={"methods": {"ia3": SPACE.methods["ia3"]}})
    outcome = run(levels(), max_params=NO_LORA, space=space).outcome
    assert outcome.baseline.adapters == ()
    assert outcome.verdict.label == "better"
    assert list(by_name(outcome.confirmations)) == ["best", "smallest", "baseline"]


# The smallest plan.


def smallest_by_hand(search: Run) -> int:
    """Fewest parameters, half of the best's at most, whose paired bound at rung 2 reaches the margin."""
    second = search.at("search", 12)
    best = min(second, key=lambda m: m.loss or math.inf)
    near = []
    for m in second:
        gaps = np.array(m.example_scores) - np.array(best.example_scores)
        bound = gaps.mean() + stats.norm.ppf(0.95) * gaps.std(ddof=1) / math.sqrt(len(gaps))
        if bound >= -0.01:
            near.append(m.plan.trainable_params)
    half = best.plan.trainable_params / 2
    return min((n for n in near if n <= half), default=best.plan.trainable_params)


@pytest.mark.parametrize(
    "truth",
    # Of 100 examples: to lose 1 or 2 of those that the best gets right may be chance, to lose 5 is none.
    [levels(), levels(ia3=0.9), levels(lora=0.705), levels(head=0.7), levels(head=0.69), levels(head=0.65)],
)
def test_the_smallest_plan_has_the_fewest_parameters_that_may_be_as_good(truth: Quality) -> None:
    search = run(truth)
    assert search.outcome.smallest.trainable_params == smallest_by_hand(search)
    assert search.outcome.smallest.trainable_params <= search.outcome.best.trainable_params


@pytest.mark.parametrize(("n_confirm", "standing"), [(400, "proven"), (40, "unproven")])
def test_a_smallest_plan_is_proven_where_the_bound_is_within_the_margin(
    n_confirm: int, standing: str
) -> None:
    # Equal scores leave 1.65 / N on each side (half a pseudo-example each way): 0.004 and 0.04.
    outcome = run(head_as_good_as_lora, n_confirm=n_confirm).outcome
    assert outcome.smallest.adapters == () != outcome.best.adapters
    assert outcome.verdict.smallest_equivalent == standing


def head_as_good_as_lora(plan: Plan, fidelity: Fidelity) -> float:
    return 0.8 if method_of(plan) != "head" else 0.7999  # a worse loss, the same scores


def test_a_smallest_plan_that_is_worse_when_confirmed_is_unproven() -> None:
    outcome = run(head_fades, n_confirm=400).outcome
    assert outcome.smallest.adapters == ()
    assert outcome.verdict.smallest_equivalent == "unproven"


def head_fades(plan: Plan, fidelity: Fidelity) -> float:
    is_fading = method_of(plan) == "head" and fidelity.split == "confirm"
    return 0.6 if is_fading else head_as_good_as_lora(plan, fidelity)


# The test split.


def test_the_test_split_is_read_once_and_after_all_confirmations() -> None:
    splits = [fidelity.split for _, fidelity in usual().world.calls]
    n_test = splits.count("test")
    assert splits[-n_test:] == ["test"] * n_test
    assert max(Counter(usual().world.calls).values()) == 1


@pytest.mark.parametrize("is_smallest_another", [False, True])
def test_the_test_split_is_read_for_best_smallest_and_baseline_alone(is_smallest_another: bool) -> None:
    search = run(head_as_good_as_lora if is_smallest_another else levels(head=0.95))
    outcome = search.outcome
    plans, seeds = (outcome.best, outcome.smallest, outcome.baseline), outcome.confirmations[0].seeds
    assert (outcome.best != outcome.smallest) == is_smallest_another
    assert {(m.plan, m.fidelity.seed) for m in search.at("test")} == {(p, s) for p in plans for s in seeds}
    assert list(by_name(outcome.test)) == ["best", "smallest", "baseline"]
    assert {c.split for c in outcome.test} == {"test"}


def test_a_diverged_seed_has_no_weights_to_test_and_counts_as_wrong_there_too() -> None:
    search = run(diverging_on(2), seeds=3)
    tested = by_name(search.outcome.test)["best"]
    assert tested.seeds == (1, 2, 3)
    assert tested.metrics[1] == 0.0 < min(tested.metrics[0], tested.metrics[2])
    assert all(m.status is Status.COMPLETE for m in search.at("test"))


def test_a_user_without_a_test_split_gets_no_test_numbers() -> None:
    search = run(levels(), n_test=0)
    assert search.outcome.test == () and not search.at("test")
    assert search.outcome.verdict.label == "better"


@pytest.mark.parametrize(
    ("span", "margin", "expected"),
    [(1.0, None, 0.01), (None, None, 0.005), (None, 0.02, 0.02), (1.0, 0.03, 0.03)],
)
def test_margin_is_a_point_or_a_percent_of_the_baselines_loss(span, margin, expected) -> None:
    world = World(quality=levels(lora=0.5, ia3=0.9), counts_errors=True)
    outcome = run(world, metric=replace(ERROR_RATE, score_span=span), margin=margin).outcome
    # LoRA gets 48 to 50 of 100 examples wrong, by its learning rate.
    assert outcome.verdict.margin == pytest.approx(expected, rel=0.05)
