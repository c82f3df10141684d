"""What a search cost, in seconds by stage and in R, the seconds of one full run of the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from autopeft.engine.schedule import Schedule
from autopeft.records import Cost, Measurement, Outcome, Status

_SAMPLED = ("sampler", "random")  # sources that count as proposals of the sampler


def search_cost(
    outcome: Outcome,
    *,
    earlier: Sequence[Measurement] = (),
    schedule: Schedule,
    scoring_seconds: float,
    load_seconds: float,
) -> Cost:
    """Seconds by stage, and the cost of the search in R.

    R is taken from the longest runs of the baseline: their training time per step times the steps of a full
    run, their evaluation time per example times the examples of the confirm split, and the rest of a run. A
    baseline without training, which a model without a task head can have, gives no R: there R is that of the
    longest runs of any plan, and None where no plan was trained.

    Args:
        outcome: Its measurements, its trials, and the baseline, whose full run is R if it is trained.
        earlier: Measurements that the outcome does not use, as of weights that were trained again.
        schedule: Of the search.
        scoring_seconds: Time of the sensitivity pass, which counts as a part of the search.
        load_seconds: Time until the first work, in which model and data are loaded and a step is timed.
    """
    seconds = {"search": 0.0, "confirm": 0.0, "test": 0.0}
    paid = [*earlier, *outcome.measurements]
    for measurement in paid:
        seconds[measurement.fidelity.split] += measurement.total_seconds
    trained = [m for m in outcome.measurements if m.status is Status.COMPLETE and m.trained_steps]
    trained = [m for m in trained if m.plan == outcome.baseline] or trained
    longest = max((m.fidelity.train_steps for m in trained), default=0)
    runs = [m for m in trained if m.fidelity.train_steps == longest]
    full_run_seconds = None
    if runs:
        training = schedule.full_steps * fmean(m.train_seconds / m.trained_steps for m in runs)
        evaluation = schedule.n_confirm * fmean(m.eval_seconds / m.fidelity.eval_examples for m in runs)
        full_run_seconds = training + evaluation + fmean(m.overhead_seconds for m in runs)
    total_seconds = scoring_seconds + sum(seconds.values())
    first_proposals = {proposal.plan: proposal for proposal in reversed(outcome.proposals)}
    sources = {proposal.arm: proposal.source for proposal in reversed(outcome.proposals)}
    searched = sampled = 0.0
    for measurement in outcome.measurements:
        if measurement.fidelity.split == "search":
            proposal = first_proposals[measurement.plan]
            # A finalist at a lower rate counts as its arm does.
            source = sources[proposal.arm] if proposal.source == "retuned" else proposal.source
            searched += schedule.cost_of(measurement)
            sampled += schedule.cost_of(measurement) * (source in _SAMPLED)
    return Cost(
        sensitivity_seconds=scoring_seconds,
        search_seconds=seconds["search"],
        confirm_seconds=seconds["confirm"],
        full_run_seconds=full_run_seconds,
        full_runs=(scoring_seconds + seconds["search"]) / full_run_seconds if full_run_seconds else None,
        examples_seen=sum(m.trained_steps for m in paid if m.fidelity.split == "search")
        * schedule.batch_size,
        sampled_share=sampled / searched if searched else None,
        load_seconds=load_seconds,
        train_seconds=sum(m.train_seconds for m in paid),
        eval_seconds=sum(m.eval_seconds for m in paid),
        total_seconds=total_seconds,
        total_full_runs=total_seconds / full_run_seconds if full_run_seconds else None,
    )
