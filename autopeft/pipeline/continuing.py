"""What a resumed run keeps of its cost: its rungs, and where the cost grew, more trials and seeds."""

from __future__ import annotations

import logging
from dataclasses import replace

from autopeft.pipeline.allowance import paid_seeds, paid_trials
from autopeft.pipeline.keeping import DECIDED, RAISED, kept_decisions, kept_rungs
from autopeft.pipeline.prepare import Prepared
from autopeft.pipeline.problem import schedule_of
from autopeft.records import Decision, RunSpec, with_setting
from autopeft.store import RunDir

_COST, _TRIALS, _SEEDS = "search.max_cost", "search.trials", "confirm.seeds"

log = logging.getLogger(__name__)


def as_it_was(run: RunDir, prepared: Prepared, given: frozenset[str]) -> Prepared:
    """The prepared run with the rungs that it has, and more trials and seeds where its limit of cost grew.

    Trials and seeds are decided anew where the run decided them, and never fewer. What else the cost decided
    stays, since measurements depend on it. `given` are the dotted names of the user's settings.
    """
    if run.is_begun:  # else they are made anew
        prepared = replace(prepared, rungs=kept_rungs(run))
    before, now = run.read_spec().search.max_cost, prepared.spec.search.max_cost
    if _COST not in given or before is None or (now is not None and now <= before):
        return prepared
    decisions = {decision.setting: decision for decision in kept_decisions(run) or ()}
    for name in (_SEEDS, _TRIALS):  # in this order, since the seeds leave the rest to the trials
        if name in decisions.keys() - given:
            prepared = _raised(prepared, name)
    stay = [str(decisions[name]) for name in sorted(DECIDED - RAISED - {_COST}) if name in decisions]
    if stay:
        log.info("The cost was %g R. It stays as the run decided then: %s.", before, "; ".join(stay))
    return prepared


def _raised(prepared: Prepared, name: str) -> Prepared:
    """The run with more trials or seeds, with a decision, where its cost pays more than it has."""
    assert name in RAISED
    spec, usual = prepared.spec, RunSpec()
    if name == _TRIALS:
        before = spec.search.trials
        open_spec = with_setting(spec, name, max(before, usual.search.trials))
        now = paid_trials(replace(prepared, spec=open_spec))
    else:
        before = spec.confirm.seeds
        most = max(before, usual.confirm.seeds)
        if spec.search.max_cost is None:
            now = most
        else:
            now = paid_seeds(prepared, schedule_of(prepared), usual=most, least=before)
    if now <= before:
        return prepared
    decision = Decision(setting=name, value=f"{now:,}", rule=f"{before:,} before --max-cost grew")
    spec = with_setting(spec, name, now)
    return replace(prepared, spec=spec, decisions=(*prepared.decisions, decision))
