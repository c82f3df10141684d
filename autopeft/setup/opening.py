"""Open a run: everything is loaded and checked before anything is measured."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean

from autopeft import adapters, model
from autopeft.errors import DataError, SpecError
from autopeft.plugins import is_own_metric, own_function
from autopeft.report.trackers import check_trackers
from autopeft.setup.build import Prepared, prepare, with_demo_settings
from autopeft.setup.feasible import fit_to_budget, requested_space
from autopeft.setup.look import NAMED, InMemory
from autopeft.setup.resuming import resumed
from autopeft.setup.workers import check_executor
from autopeft.space import AllocationContext, Space
from autopeft.store import RunDir
from autopeft.train.lengths import EVAL_COST
from autopeft.types import Arm, Decision, Plan, RunSpec, with_setting

USER_BASELINE = Arm(kind="given", label="your baseline")
_LARGEST_MARGIN = 0.5  # of a share; within it a coin is as good as a perfect plan; heuristic
_MIDDLE = 0.38  # of a range of rates (log scale); two runs there lose half a point to a sweep of eight
_LEAST_COMPARED = 2  # examples or groups, from which a standard error can be computed
_EVAL_SHARE = 0.1  # of a full run that the evaluation of a split may cost; heuristic
_LEAST_EXAMPLES = 128  # to evaluate if the task names no number; heuristic

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """What a search works on, loaded and checked; nothing is measured yet.

    `requested` is the search space that the settings ask for, `feasible` the part of it that fits model and
    budget. All scores in `context` are 1. `user_plan` is the plan of `--baseline` with its arm.
    """

    prepared: Prepared
    requested: Space
    feasible: Space
    context: AllocationContext
    user_plan: tuple[Arm, Plan] | None


@contextlib.contextmanager
def open_run(
    spec: RunSpec,
    *,
    resume: bool,
    out: Path | None,
    memory: InMemory = NAMED,
) -> Iterator[OpenedRun]:
    """Check the settings, load data and model, and fit the search space to the budget.

    The run directory `out` is locked within the context, and an error before the sensitivity is measured
    removes it. None, in a dry run, writes nothing. The other arguments are those of `run_search`.
    """
    spec = resumed(spec) if resume else with_demo_settings(spec)
    requested = requested_space(spec)
    _check_settings(spec)
    place: contextlib.AbstractContextManager[RunDir | None] = (
        contextlib.nullcontext() if out is None else RunDir.create(out, resume=resume)
    )
    with place as folder:
        try:
            prepared = prepare(spec, memory=memory)
            if folder:
                prepared = prepared.kept_in(folder)
            check_comparison(prepared)
            feasible, context = fit_to_budget(prepared.spec, prepared.base, requested)
            yield OpenedRun(
                prepared=with_evaluated_examples(prepared),
                requested=requested,
                feasible=feasible,
                context=context,
                user_plan=user_plan(prepared, context),
            )
        except BaseException:
            if folder:
                folder.discard()  # unless the sensitivity is measured
            raise


def _check_settings(spec: RunSpec) -> None:
    """Refuse what can be refused before data and model are loaded, which takes long."""
    check_executor(spec)
    check_trackers(spec)
    if is_own_metric(spec.task.metric):
        own_function(str(spec.task.metric))
    if spec.search.baseline is not None:
        adapters.check_user_file(Path(spec.search.baseline))


def check_comparison(prepared: Prepared) -> None:
    """Raise unless the margin and the splits allow plans to be compared.

    Raises:
        SpecError: The metric is a share and the margin 0.5 or more: the user probably means points.
        DataError: A split that scores plans has one example, or the confirm split one group: that gives no
            interval.
    """
    margin, metric = prepared.spec.search.margin, prepared.task.metric
    if margin is not None and metric.is_share and margin >= _LARGEST_MARGIN:
        raise SpecError(
            f"The margin is {margin:g}, but {metric.name} lies between 0 and 1 and 0.01 is one point of it; "
            f"did you mean --margin {margin / 100:g}?"
        )
    for name, split in prepared.bench.splits.items():
        n_examples = len(split.labels)
        if n_examples < _LEAST_COMPARED:
            raise DataError(
                f"The {name} split has {n_examples} example, and comparing plans needs at least "
                f"{_LEAST_COMPARED}; add rows to train, or to the validation or test file."
            )
    groups = prepared.data.confirm.groups
    if groups and len(set(groups)) == 1:
        raise DataError(
            f"The {len(groups)} examples of the confirm split are of 1 group, and comparing plans needs at "
            f"least {_LEAST_COMPARED}; name a finer data.group_column."
        )


def user_plan(prepared: Prepared, context: AllocationContext) -> tuple[Arm, Plan] | None:
    """Read the plan of `--baseline`, with its arm; None without the flag. Warns if it is above the budget.

    A file without a learning rate gets the middle rate of its method, divided by the ratio of the file's
    scales to the method's: plans compare by rate times scale.
    """
    path = prepared.spec.search.baseline
    if path is None:
        return None
    with model.quiet_libraries():
        baseline = adapters.read_user_plan(Path(path), prepared.base, prepared.bench.methods)
    for note in baseline.notes:
        log.info("%s: %s", path, note)
    plan = baseline.plan
    if plan.trainable_params > context.max_params:
        log.warning(
            "Your baseline trains %s parameters and the budget allows %s: it is measured but cannot be the "
            "best plan.",
            f"{plan.trainable_params:,}",
            f"{context.max_params:,}",
        )
    if not plan.learning_rate and plan.lead_method is not None:
        method = prepared.bench.methods[plan.lead_method]
        low, high = method.learning_rate_range
        of_method = [a for a in plan.adapters if a.method == method.name and a.scale > 0]
        scaled = [adapter.scale / method.scale(adapter.rank) for adapter in of_method]
        rate = low * (high / low) ** _MIDDLE / geometric_mean(scaled or [1.0])
        plan = replace(plan, learning_rate=rate)
    return USER_BASELINE, plan


def with_evaluated_examples(prepared: Prepared) -> Prepared:
    """Evaluate as many examples as a tenth of a full run costs, unless the user says how many.

    The number is noted as a decision if it is less than the largest split has; else nothing changes.
    """
    if prepared.spec.data.max_eval_examples is not None:
        return prepared
    n_in_share = int(_EVAL_SHARE * prepared.full_steps * prepared.bench.batch_size / EVAL_COST)
    n_examples = max(n_in_share, prepared.task.defaults.eval_examples or _LEAST_EXAMPLES)
    largest = max(prepared.n_evaluated(name) for name in ("search", "confirm", "test"))
    if n_examples >= largest:
        return prepared
    is_least = n_examples > n_in_share
    reason = "fewer hardly distinguish plans" if is_least else "more would cost over a tenth of a full run"
    decision = Decision(
        setting="data.max_eval_examples",
        value=f"{n_examples:,}",
        rule=f"of {largest:,} in the largest held-out split; {reason}",
    )
    return replace(
        prepared,
        spec=with_setting(prepared.spec, "data.max_eval_examples", n_examples),
        decisions=(*prepared.decisions, decision),
    )
