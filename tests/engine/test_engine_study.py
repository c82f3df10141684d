"""The Optuna study: what it proposes, and the trials that it leaves."""

from __future__ import annotations

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState
from toys.engine import NO_LORA, ROOMY, TIGHT, Run, kind_of, levels, run

from autopeft.engine import STUDY
from autopeft.records import Fidelity, Plan, Status
from autopeft.space.sampling import parameters


def search_with_trials(truth, **settings) -> tuple[Run, list[FrozenTrial]]:
    storage = InMemoryStorage()
    search = run(truth, storage=storage, **settings)
    return search, optuna.load_study(study_name=STUDY, storage=storage).trials


def test_a_thorough_search_holds_the_list_and_what_optuna_proposes() -> None:
    search, trials = search_with_trials(levels(), effort="thorough")
    proposals = search.outcome.proposals
    assert [p.source for p in proposals] == ["list"] * 4 + ["sampler"] * 20
    assert len({p.plan for p in proposals}) > 15
    assert [trial.number for trial in trials] == [p.trial for p in proposals] == list(range(24))
    for proposal, trial in zip(proposals, trials, strict=True):
        assert trial.user_attrs == {
            "arm": str(proposal.arm),
            "source": proposal.source,
            "plan": proposal.plan.digest,
            "trainable_params": proposal.plan.trainable_params,
        }
        drawn = parameters(search.problem.space) if proposal.source == "sampler" else {}
        assert trial.distributions.keys() == trial.params.keys() == drawn.keys()


def test_the_trials_hold_the_losses_of_short_and_full_runs_and_how_they_ended() -> None:
    def truth(plan: Plan, fidelity: Fidelity) -> float | Status:
        broken = {"lora": Status.DIVERGED, "hira": Status.OUT_OF_MEMORY}
        return broken.get(kind_of(plan), 0.5)

    search, trials = search_with_trials(truth, trials=8)
    in_full = {m.plan for m in search.at("confirm")}
    for proposal, trial in zip(search.outcome.proposals, trials, strict=True):
        losses = {75: 1.5 + 1 / 75, 200: 1.5 + 1 / 200}
        if kind_of(proposal.plan) in ("lora", "hira"):
            assert (trial.state, trial.intermediate_values) == (TrialState.FAIL, {})
        elif proposal.plan in in_full:
            assert (trial.state, trial.intermediate_values) == (TrialState.COMPLETE, losses)
            assert trial.value == losses[200]
        else:
            assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, {75: losses[75]})
    states = {trial.state for trial in trials}
    assert states == {TrialState.FAIL, TrialState.COMPLETE, TrialState.PRUNED}


def test_the_study_grows_while_the_search_goes_on() -> None:
    storage, states = InMemoryStorage(), []

    def truth(plan: Plan, fidelity: Fidelity) -> float:
        study = optuna.load_study(study_name=STUDY, storage=storage)
        states.append([(trial.state, len(trial.intermediate_values)) for trial in study.trials])
        return 0.5

    run(truth, storage=storage, n_examples=(100, 100, 0))
    raced, racing, in_full = (TrialState.RUNNING, 1), (TrialState.RUNNING, 0), (TrialState.COMPLETE, 2)
    assert states[:3] == [[racing], [raced, racing], [raced, raced, racing]]
    assert states[-1].count(in_full) == 1 and set(states[-1]) == {in_full, raced}  # one full run goes on


@pytest.mark.parametrize("effort", ["quick", "normal"])
def test_the_trials_of_a_usual_search_are_its_short_runs(effort: str) -> None:
    search, trials = search_with_trials(levels(), effort=effort)
    assert len(trials) == len(search.outcome.proposals) == len(search.at("search"))


@pytest.mark.parametrize("max_params", [8, NO_LORA, 31, 60, TIGHT, ROOMY])
def test_no_run_of_a_search_exceeds_the_budget(max_params: int) -> None:
    search = run(levels(), max_params=max_params, trials=12, sizes=3)
    by_name = {site.name: site for site in search.problem.context.sites}
    for plan, _ in search.world.calls:
        recounted = 0
        for adapter in plan.adapters:
            site = by_name[adapter.site]
            is_ia3, n_out = adapter.method == "ia3", site.out_features
            recounted += n_out if is_ia3 else adapter.rank * (site.in_features + n_out)
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
