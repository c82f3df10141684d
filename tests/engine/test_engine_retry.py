"""A baseline that fails on a confirming seed is tried again at a lower learning rate."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from toys.engine import World, is_baseline, problem, run

from autopeft.records import Fidelity, Plan

optuna.logging.set_verbosity(optuna.logging.ERROR)

SAFE = 3e-3  # learning rate
Fails = Callable[[Fidelity], bool]
FAILED = ("The baseline diverged", "The baseline learned nothing")


def on_every_seed(fidelity: Fidelity) -> bool:
    return True


def on_one_seed(fidelity: Fidelity) -> bool:
    return fidelity.seed == problem().confirmation(0).seed


def with_a_cliff(*, rival: float, failed: float | None, fails: Fails = on_every_seed):
    """Baselines have 0.8 at any rate; in confirming runs those above `SAFE` fail with what is given."""

    def quality(plan: Plan, fidelity: Fidelity) -> float | None:
        if not is_baseline(plan):
            return rival
        is_fresh = fidelity.split != "search"
        return failed if is_fresh and plan.learning_rate > SAFE and fails(fidelity) else 0.8

    return quality


@pytest.mark.parametrize("failed", [None, 0.1], ids=["diverged", "unlearned"])
@pytest.mark.parametrize("fails", [on_every_seed, on_one_seed])
def test_the_answer_is_a_baseline_that_does_not_fail(failed, fails):
    made = run(with_a_cliff(rival=0.3, failed=failed, fails=fails), trials=16)
    outcome = made.outcome
    assert outcome.best == outcome.baseline and outcome.best.learning_rate <= SAFE
    (confirmed,) = [c for c in outcome.confirmations if c.name == "baseline"]
    assert confirmed.metric_mean == pytest.approx(0.8)
    told = f"The baseline {'learned nothing' if failed else 'diverged'} on its only seed at "
    assert any(s.startswith(told) and "it is better" in s for s in outcome.sentences)
    failing = [m for m in made.at("confirm") if is_baseline(m.plan) and m.plan.learning_rate > SAFE]
    assert failing, "what failed stays in the record"


def test_a_rival_is_compared_with_a_baseline_that_does_not_fail():
    failing = run(with_a_cliff(rival=0.82, failed=None, fails=on_one_seed), trials=16).outcome
    assert any(s.startswith("The baseline diverged on 1 of ") for s in failing.sentences)
    sound = run(with_a_cliff(rival=0.82, failed=0.8), trials=16).outcome
    assert failing.baseline.learning_rate <= SAFE < sound.baseline.learning_rate
    assert failing.verdict.mean_difference == pytest.approx(sound.verdict.mean_difference)
    assert failing.verdict.label == sound.verdict.label
    assert set(failing.proposals) >= set(sound.proposals)
    assert {p.plan for p in failing.proposals} >= {failing.baseline}, "in trials.csv"


def test_a_baseline_that_fails_at_lower_rates_too_stays():
    made = run(lambda plan, f: 0.8 if f.split == "search" else None, trials=16)
    assert any("it is no better" in sentence for sentence in made.outcome.sentences)
    assert made.outcome.baseline.learning_rate > SAFE


@pytest.mark.parametrize("max_cost", [7.0, 8.0, 9.0, 10.0, 12.0])
def test_what_was_tried_again_in_full_counts_and_keeps_to_the_cost(max_cost):
    made = run(with_a_cliff(rival=0.3, failed=None), trials=8, max_cost=max_cost)
    outcome, schedule = made.outcome, problem().schedule
    assert sum(schedule.cost_of(m) for m in outcome.measurements) <= max_cost
    is_tried = any(m.plan.learning_rate <= SAFE for m in made.at("confirm") if is_baseline(m.plan))
    assert is_tried is (outcome.baseline.learning_rate <= SAFE)
    assert is_tried is any("it is better" in sentence for sentence in outcome.sentences)


def test_a_resumed_search_repeats_no_run():
    quality = with_a_cliff(rival=0.3, failed=None)
    first = run(quality, trials=16)
    world = World(quality=quality)
    again = run(world, trials=16, known={(m.plan, m.fidelity): m for m in first.outcome.measurements})
    assert not world.calls and again.outcome.baseline == first.outcome.baseline


@pytest.mark.parametrize(("in_full", "is_failed"), [(2.24, False), (2.31, False), (2.6, True)])
def test_language_model_that_gains_little_has_failed_only_above_the_untrained_one(in_full, is_failed):
    """The untrained loss is 2.3, and that of the first rung 1.3 % lower."""

    def quality(plan: Plan, fidelity: Fidelity) -> float:
        loss = 2.3 if not plan.adapters else in_full if fidelity.split == "confirm" else 2.27
        return 2 + 1 / fidelity.train_steps - loss

    made = run(World(quality=quality, has_head=False), trials=16, head_rates=(1.0, 1.0))
    assert any(sentence.startswith(FAILED) for sentence in made.outcome.sentences) == is_failed
