"""The study that a search leaves: each trial's loss at every rung, and which trials were pruned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from autopeft.records import Measurement, Outcome, Plan

STUDY = "autopeft"


def write_losses_by_rung(searched: BaseStorage, outcome: Outcome, *, storage: BaseStorage) -> None:
    """Copy the finished study into another storage, with each trial's losses by training steps.

    The sampler needs losses of one length, so that during the search a trial has its loss at the first rung
    alone. In the copy a trial that reached the last rung is complete with the loss there (with that of a
    full run if it had that alone), one that did not is pruned, and one without any loss stays as it was.
    Numbers, parameters and attributes are kept.
    """
    study = optuna.load_study(study_name=STUDY, storage=searched)
    losses = _losses_by_steps(outcome.measurements)
    reached = {steps for by_steps in losses.values() for steps in by_steps}
    last = max(reached & set(outcome.proxy.rung_steps), default=0)
    plans = {proposal.trial: proposal.plan for proposal in outcome.proposals}  # dropped trials have none
    trials = [
        _with_losses(trial, losses.get(plans.get(trial.number), {}), last=last) for trial in study.trials
    ]
    copied = optuna.create_study(study_name=STUDY, storage=storage, direction=study.direction)
    copied.add_trials(trials)


def _losses_by_steps(measurements: Sequence[Measurement]) -> dict[Plan | None, dict[int, float]]:
    losses: dict[Plan | None, dict[int, float]] = defaultdict(dict)
    for run in measurements:
        if run.fidelity.split == "search" and run.loss is not None:
            losses[run.plan].setdefault(run.fidelity.train_steps, run.loss)  # of several seeds the first
    return losses


def _with_losses(trial: FrozenTrial, by_steps: dict[int, float], *, last: int) -> FrozenTrial:
    if not by_steps:
        return trial
    longest = max(by_steps)
    return create_trial(
        state=TrialState.COMPLETE if longest >= last else TrialState.PRUNED,
        value=by_steps.get(last, by_steps[longest]),
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
        system_attrs=trial.system_attrs,
        intermediate_values=by_steps,
    )
