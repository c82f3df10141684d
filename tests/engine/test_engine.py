from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from toys.engine import (
    NO_LORA,
    ROOMY,
    SPACE,
    TIGHT,
    Backwards,
    Counting,
    Run,
    World,
    is_baseline,
    levels,
    method_of,
    run,
)

from autopeft.engine import rungs
from autopeft.engine.queue import spread
from autopeft.errors import TrainingError
from autopeft.records import Fidelity, Plan, Status
from autopeft.space import MethodSpace, Space

optuna.logging.set_verbosity(optuna.logging.ERROR)


@cache
def usual() -> Run:
    """A search of 16 trials where IA3 is best; to be read, not changed."""
    return run(levels())


def of_the_study(proposals, trials=16):
    """What the search proposed; the learning rates that come after it stand beside it."""
    extra = [proposal.source for proposal in proposals[trials:]]
    assert set(extra) <= {"retuned"}
    return [proposal for proposal in proposals[:trials] if proposal.source != "retuned"]


def ia3_fails(plan: Plan, fidelity: Fidelity) -> float | None:
    return None if method_of(plan) == "ia3" else levels()(plan, fidelity)


def baseline_fails(plan: Plan, fidelity: Fidelity) -> float | None:
    return None if is_baseline(plan) else levels()(plan, fidelity)


def nothing_works(plan: Plan, fidelity: Fidelity) -> None:
    return None


# Determinism.


class Threads(ThreadPoolExecutor):
    """Three measurements side by side, which end in any order."""

    n_workers = 3


@pytest.mark.parametrize("executor", [Backwards(), Threads(3)])
def test_the_outcome_does_not_depend_on_the_executor(executor: object) -> None:
    assert run(levels(), executor=executor).outcome == usual().outcome


@pytest.mark.parametrize("wave", [4, 6])
def test_a_wave_is_under_way_at_once(wave: int) -> None:
    executor = Counting()
    search = run(levels(), executor=executor, wave=wave)
    assert max(executor.under_way[: len(search.at("search", 3))]) == wave
    assert search.outcome == run(levels(), wave=wave).outcome


def test_a_seed_repeats_its_proposals_and_another_seed_has_others() -> None:
    again, other = run(levels()).outcome, run(levels(), seed=1).outcome
    assert again.proposals == usual().outcome.proposals
    assert {p.plan for p in other.proposals} != {p.plan for p in again.proposals}


# The first rung.


@pytest.mark.parametrize("trials", [1, 5, 16, 22])
def test_the_study_holds_one_finished_trial_per_proposal(trials: int) -> None:
    storage = InMemoryStorage()
    proposals = run(levels(), trials=trials, storage=storage).outcome.proposals
    study = optuna.load_study(study_name="autopeft", storage=storage)
    assert [p.trial for p in proposals] == [t.number for t in study.trials] == list(range(len(proposals)))
    assert len(of_the_study(proposals, trials)) == trials
    assert all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in study.trials)
    for proposal, trial in zip(proposals, study.trials, strict=True):
        assert trial.user_attrs == {
            "arm": str(proposal.arm),
            "source": proposal.source,
            "plan": proposal.plan.digest,
            "trainable_params": proposal.plan.trainable_params,
        }


@pytest.mark.parametrize("max_params", [ROOMY, TIGHT, NO_LORA])
@pytest.mark.parametrize(("trials", "n_rates"), [(9, 2), (16, 2), (23, 2), (24, 3)])
def test_every_baseline_and_the_head_get_as_many_learning_rates(
    trials: int, n_rates: int, max_params: int
) -> None:
    outcome = run(levels(), trials=trials, max_params=max_params, space=only_ia3_below(max_params)).outcome
    rates = Counter(p.arm for p in outcome.proposals if p.source == "enqueued" and p.arm.kind != "usual")
    assert {arm.kind for arm in rates} == ({"head"} if max_params == NO_LORA else {"head", "baseline"})
    assert len(rates) == {ROOMY: 3, TIGHT: 3, NO_LORA: 1}[max_params]
    assert set(rates.values()) == {n_rates}


@pytest.mark.parametrize(("max_params", "kind"), [(ROOMY, "baseline"), (NO_LORA, "head")])
def test_the_display_is_told_which_plans_are_baselines(max_params: int, kind: str) -> None:
    """Where no LoRA fits the budget, the head alone is the baseline."""
    search = run(levels(), max_params=max_params, space=only_ia3_below(max_params))
    kinds = {str(p.arm): p.arm.kind for p in search.outcome.proposals}
    assert {kinds[arm] for arm in search.display.baselines} == {kind}


def only_ia3_below(max_params: int) -> Space:
    """The toy space, less what no budget below 16 parameters can pay."""
    methods = {name: part for name, part in SPACE.methods.items() if max_params >= 16 or name == "ia3"}
    return SPACE.model_copy(update={"methods": methods})


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 1.0])
def test_a_fixed_share_of_the_sampled_proposals_is_random(share: float) -> None:
    space = SPACE.model_copy(update={"random_share": share})
    sources = Counter(p.source for p in run(levels(), space=space, confirm="none").outcome.proposals)
    n_sampled = sources["random"] + sources["sampler"]
    assert abs(sources["random"] - share * n_sampled) <= 0.5


def test_equal_plans_are_measured_once() -> None:
    policies = MethodSpace(learning_rate=(0.01, 0.01))
    search = run(levels(), space=Space(about="one policy", methods={"ia3": policies}))
    plans = Counter(proposal.plan for proposal in search.outcome.proposals)
    assert max(plans.values()) > 5
    assert max(Counter(search.world.calls).values()) == 1


def test_a_diverged_plan_never_wins() -> None:
    outcome = run(ia3_fails).outcome
    assert len(of_the_study(outcome.proposals)) == 16
    assert method_of(outcome.best) != "ia3"


def is_ia3(plan: Plan) -> bool:
    return method_of(plan) == "ia3"


@pytest.mark.parametrize("failure", [Status.DIVERGED, Status.FAIL, Status.OUT_OF_MEMORY])
def test_a_plan_that_never_finished_is_a_failed_trial(failure: Status) -> None:
    storage = InMemoryStorage()
    outcome = run(World(quality=ia3_fails, failure=failure), storage=storage).outcome
    study = optuna.load_study(study_name="autopeft", storage=storage)
    failed = [trial.state is TrialState.FAIL for trial in study.trials]
    assert any(failed)
    assert failed == [is_ia3(p.plan) for p in outcome.proposals]


@pytest.mark.parametrize("error", ["The loss diverged at step 3", "out of memory"])
def test_a_search_where_nothing_works_ends_with_the_first_error(error: str) -> None:
    with pytest.raises(
        TrainingError, match=rf"None of 1\d plans could be trained; the first error was: {error}"
    ):
        run(World(quality=nothing_works, error=error))


def test_a_baseline_that_cannot_be_trained_ends_the_search_with_its_error() -> None:
    with pytest.raises(TrainingError, match="No learning rate of the baseline could be trained: out of"):
        run(World(quality=baseline_fails, error="out of memory", failure=Status.FAIL))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_plan_with_the_best_truth_is_found(seed: int) -> None:
    truth, outcome = levels(), run(levels(), seed=seed).outcome
    any_fidelity = outcome.measurements[0].fidelity
    best = max({p.plan for p in outcome.proposals}, key=lambda plan: truth(plan, any_fidelity) or 0.0)
    n_examples = 100  # of the search split of the toy, which cannot tell closer plans apart
    assert truth(best, any_fidelity) - truth(outcome.best, any_fidelity) < 1 / n_examples
    assert method_of(outcome.best) == method_of(best)


# Memory.


def test_every_new_measurement_is_recorded_and_shown_in_order() -> None:
    measured = list(usual().outcome.measurements)
    assert usual().records == measured == [m for m, _ in usual().display.shown]


@pytest.mark.parametrize("n_known", [0, 3, 17, 27, 1000])
def test_a_stopped_search_continues_to_the_same_outcome(n_known: int) -> None:
    before = usual().outcome.measurements
    known = {(m.plan, m.fidelity): m for m in before[:n_known]}
    search = run(levels(), known=known)
    assert search.outcome == usual().outcome
    assert search.records == list(before[n_known:])
    assert len(search.world.calls) == len(before[n_known:])


# Time.


def test_ample_time_changes_nothing() -> None:
    assert run(levels(), limit_seconds=10_000).outcome == usual().outcome


# Arithmetic.


@given(st.integers(1, 100_000))
def test_rungs_are_short_and_ascending(full_steps: int) -> None:
    steps = rungs(full_steps)
    assert 2 <= len(steps) <= 3 and steps[0] >= 1
    assert all(a < b for a, b in pairwise(steps))
    assert steps[1] <= max(2, 0.4 * full_steps + 1) or len(steps) == 2
    assert steps[-1] <= max(2, 0.4 * full_steps + 1, min(75, full_steps))
    assert steps[0] <= max(30, 0.01 * full_steps + 1)
    longer = rungs(full_steps + 1)
    assert steps[0] <= longer[0] and steps[-1] <= longer[-1]
    assert steps[-1] >= min(75, full_steps)  # enough to leave the share of the most frequent label
    if full_steps >= 190:  # 75 steps are 0.4 of it
        assert steps[0] >= 30 and steps[1] >= 75


@given(st.floats(1e-6, 1e-1), st.floats(1.5, 1e3), st.integers(1, 6))
def test_learning_rates_are_spread_geometrically_inside_the_range(low: float, ratio: float, n: int) -> None:
    ends = [low, *spread(low, low * ratio, n), low * ratio]
    steps = [b / a for a, b in pairwise(ends)]
    assert steps == pytest.approx([ratio ** (1 / (n + 1))] * (n + 1))
