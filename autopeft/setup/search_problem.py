"""From a prepared run to the problem that the engine solves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autopeft import space
from autopeft.engine import SearchProblem
from autopeft.setup.build import Prepared
from autopeft.setup.opening import OpenedRun
from autopeft.setup.resources import memory_needed
from autopeft.train import MOVE, head_move
from autopeft.types import SIZE_SCORE, TargetScores, with_setting

SHOWN_SCORES = ("gradient", "fisher")  # which the report shows next to the score that orders target modules
_SLOWER_HEAD = 0.25  # at 16 epochs 1 to 4 points better where labels are noisy, up to 7 worse elsewhere


def search_problem(opened: OpenedRun, scores: Sequence[TargetScores] = ()) -> SearchProblem:
    """Put together what the engine solves.

    Without scores, as in a dry run, the first layers get the highest scores, and the learning rates of the
    head are placeholders.
    """
    prepared = opened.prepared
    spec, targets = prepared.spec, prepared.base.chosen
    by_name = {
        score.name: {target.name: value for target, value in zip(targets, score.values, strict=True)}
        for score in scores
    }
    if scores and spec.search.score not in by_name:  # one example did not fit into memory
        spec = with_setting(spec, "search.score", SIZE_SCORE)
    first_layers = {target.name: 1 / (1 + (target.layer or 0)) for target in targets}
    head_rates = (1.0, 1.0)
    if scores:
        with memory_needed("measuring the inputs of the task head", spec):
            head_rates = prepared.bench.head_rates.alone()
    return SearchProblem(
        spec=spec,
        space=opened.feasible,
        context=replace(opened.context, scores=by_name.get(spec.search.score, first_layers)),
        family=prepared.task.defaults.family,
        lengths=prepared.lengths,
        metric=prepared.task.metric,
        has_head=prepared.base.head_params > 0,
        head_rates=head_rates,
        head_factors=_head_factors(prepared) if opened.user_plan is None else (1.0,),
        user_plan=opened.user_plan,
        groups=prepared.groups,
    )


def _head_factors(prepared: Prepared) -> tuple[float, ...]:
    """List the factors of the head's learning rate to try in full runs: two where rows repeat often."""
    is_slow = prepared.base.head_params > 0 and head_move(prepared.bench.n_epochs) < MOVE
    is_tried = is_slow and not prepared.base.predicts_numbers and prepared.spec.search.effort != "quick"
    return (1.0, _SLOWER_HEAD) if is_tried else (1.0,)


def rate_ranges(problem: SearchProblem) -> dict[str, tuple[float, float]]:
    """Return the range of learning rates of each method; under the name "" that of the head alone."""
    methods = problem.context.methods
    ranges = {name: space.learning_rates(problem.space, name, methods) for name in methods}
    return {"": problem.head_rates, **ranges}
