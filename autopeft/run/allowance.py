"""How many examples a run evaluates where the user leaves it open."""

from __future__ import annotations

from dataclasses import replace

from autopeft.engine import EVAL_COST
from autopeft.records import Decision, with_setting
from autopeft.run.prepare import Prepared

_EVAL_SHARE = 0.1  # of a full run, that the evaluation of a split may cost; chosen by hand
_LEAST_EXAMPLES = 128  # to evaluate, where the task names no number; chosen by hand


def with_evaluated_examples(prepared: Prepared) -> Prepared:
    """The run with as many evaluated examples as a tenth of a full run pays, recorded where it is not all."""
    if prepared.spec.data.max_eval_examples is not None:
        return prepared
    paid = int(_EVAL_SHARE * prepared.full_steps * prepared.bench.batch_size / EVAL_COST)
    n_examples = max(paid, prepared.task.defaults.eval_examples or _LEAST_EXAMPLES)
    largest = max(prepared.n_evaluated(name) for name in ("search", "confirm", "test"))
    if n_examples >= largest:
        return prepared
    reasons = ("more would cost over a tenth of a full run", "fewer hardly tell plans apart")
    decision = Decision(
        setting="data.max_eval_examples",
        value=f"{n_examples:,}",
        rule=f"of {largest:,} in the largest split; {reasons[n_examples > paid]}",
    )
    return replace(
        prepared,
        spec=with_setting(prepared.spec, "data.max_eval_examples", n_examples),
        decisions=(*prepared.decisions, decision),
    )
