"""The Optuna study: what it proposes, and the trials that it leaves."""

from __future__ import annotations

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState
from toys.engine import NO_LORA, ROOMY, SPACE, TIGHT, Run, Threads, kind_of, levels, run

from autopeft.engine import STUDY
from autopeft.executors import Serial
from autopeft.space import parameters, plan_of, policy_of_parameters
from autopeft.types import Fidelity, Plan, Status


def search_with_trials(truth, **settings) -> tuple[Run, list[FrozenTrial]]:
    storage = InMemoryStorage()
    search = run(truth, storage=storage, **settings)
    return search, optuna.load_study(study_name=STUDY, storage=storage).trials


def test_a_thorough_search_holds_the_list_and_what_optuna_proposes() -> None:
    search, trials = search_with_trials(levels(), effort="thorough")
    proposals = search.outcome.proposals
    assert [p.source for p in proposals] == ["list"] * 4 + ["sampler"] * 44
    assert len({p.plan for p in proposals}) > 15
    assert [trial.number for trial in trials] == [p.trial for p in proposals] == list(range(48))
    for proposal, trial in zip(proposals, trials, strict=True):
        assert trial.user_attrs == {
            "arm": str(proposal.arm),
            "source": proposal.source,
            "plan_id": proposal.plan.digest,
            "learning_rate": proposal.plan.learning_rate,
            "trainable_params": proposal.plan.trainable_params,
        }
        drawn = parameters(search.problem.space)
        assert trial.distributions.keys() == trial.params.keys() == drawn.keys()


@pytest.mark.parametrize(("full_steps", "n_proposed"), [(100, 5), (400, 5), (1000, 12), (9000, 12)])
def test_the_sampler_proposes_what_one_full_run_costs_within_bounds(full_steps: int, n_proposed: int) -> None:
    """Between 4 and 12, and nine trials with the four of the list at least."""
    search = run(levels(), full_steps=full_steps)
    assert sum(p.source == "sampler" for p in search.outcome.proposals) == n_proposed


def test_a_listed_plan_has_the_parameters_that_make_it_again() -> None:
    search, trials = search_with_trials(levels(), trials=4)
    space, methods = search.problem.space, search.problem.context.methods
    assert len(trials) == 4
    for proposal, trial in zip(search.outcome.proposals, trials, strict=True):
        again = plan_of(policy_of_parameters(trial.params, space, methods), search.problem.context)
        assert again.adapters == proposal.plan.adapters
        assert again.learning_rate == pytest.approx(proposal.plan.learning_rate)


def test_a_baseline_outside_of_the_space_has_no_parameters_and_is_never_proposed() -> None:
    search, trials = search_with_trials(levels(), space=SPACE.only(["ia3"]), trials=16)
    assert [trial.params for trial in trials[:2]] == [{}, {}]
    assert all(trial.params.keys() == parameters(search.problem.space).keys() for trial in trials[2:])
    assert {kind_of(p.plan) for p in search.outcome.proposals[2:]} == {"ia3"}


@pytest.mark.parametrize("make", [Serial, Threads])
def test_proposals_do_not_depend_on_the_number_of_workers(make) -> None:
    usual, other = (run(levels(), trials=16, executor=made) for made in (Serial(), make()))
    assert [p.plan for p in other.outcome.proposals] == [p.plan for p in usual.outcome.proposals]


def test_the_value_of_a_trial_is_the_loss_of_its_short_run() -> None:
    def truth(plan: Plan, fidelity: Fidelity) -> float | Status:
        broken = {"lora": Status.DIVERGED, "hira": Status.OUT_OF_MEMORY}
        return broken.get(kind_of(plan), 0.5 if fidelity.split == "search" else 0.6)

    storage = InMemoryStorage()
    search = run(truth, trials=8, storage=storage)
    study = optuna.load_study(study_name=STUDY, storage=storage)
    for proposal, trial in zip(search.outcome.proposals, study.trials, strict=True):
        ended = {"lora": (TrialState.PRUNED, None), "hira": (TrialState.FAIL, None)}
        usual = (TrialState.COMPLETE, 1.5 + 1 / 75)
        assert (trial.state, trial.value) == ended.get(kind_of(proposal.plan), usual)


def test_the_study_grows_while_the_search_goes_on() -> None:
    storage, states = InMemoryStorage(), []

    def truth(plan: Plan, fidelity: Fidelity) -> float:
        study = optuna.load_study(study_name=STUDY, storage=storage)
        states.append("".join(trial.state.name[0] for trial in study.trials))
        return 0.5

    run(truth, storage=storage, n_examples=(100, 100, 0), trials=4)
    assert states == ["RWWW", "CRWW", "CCRW", "CCCR", "CCCC", "CCCC"]  # running, waiting, complete


def test_a_trial_beyond_the_limits_is_pruned() -> None:
    _, trials = search_with_trials(levels(), max_cost=3.0)
    states = [trial.state for trial in trials]
    assert states[0] is TrialState.COMPLETE and states[-1] is TrialState.PRUNED


@pytest.mark.parametrize("max_params", [8, NO_LORA, 31, 60, TIGHT, ROOMY])
def test_no_run_of_a_search_exceeds_the_budget(max_params: int) -> None:
    search = run(levels(), max_params=max_params, trials=12, sizes=3)
    by_name = {target.name: target for target in search.problem.context.targets}
    for plan, _ in search.world.calls:
        recounted = 0
        for adapter in plan.adapters:
            target = by_name[adapter.target]
            is_ia3, n_out = adapter.method == "ia3", target.out_features
            recounted += n_out if is_ia3 else adapter.rank * (target.in_features + n_out)
        assert recounted == plan.trainable_params <= max_params


def test_proposals_follow_the_losses() -> None:
    """A space of 200 rates, of which the middle is best, at which the list has no plan."""

    def truth(plan: Plan, fidelity: Fidelity) -> float:
        if plan.lead_method != "ia3":
            return 0.2
        low, high = search_range
        return 0.9 - abs((plan.learning_rate - low) / (high - low) - 0.5)

    search_range = run(levels(), effort="quick").problem.context.methods["ia3"].learning_rate_range
    outcome = run(truth, trials=30).outcome
    sampled = [p.plan for p in outcome.proposals if p.source == "sampler"]
    fidelity = outcome.measurements[0].fidelity
    later, earlier = sampled[-10:], sampled[:8]
    mean = [sum(truth(plan, fidelity) for plan in some) / len(some) for some in (earlier, later)]
    assert mean[1] > mean[0]
    challenger = next(p for p in outcome.proposals if p.plan == outcome.challenger)
    assert challenger.source == "sampler" and outcome.verdict.sentence.startswith("The proposed IA³ ")
