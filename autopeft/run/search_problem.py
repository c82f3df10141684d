"""From settings to the problem that the engine solves: search space, budget, scores, the user's plan."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean

from autopeft import adapters, budget, model, space
from autopeft.engine import SearchProblem
from autopeft.errors import DataError, SpecError, TargetError
from autopeft.model import BaseModel
from autopeft.plugins import (
    MIXES_SINCE_PEFT,
    discover,
    is_own_metric,
    metric_facts,
    missing_in_peft,
    own_function,
)
from autopeft.run.prepare import NAMED, InMemory, Prepared, methods_for, prepare, with_demo_settings
from autopeft.run.resources import budget_of, memory_needed
from autopeft.run.state import resumed
from autopeft.run.trackers import check_trackers
from autopeft.run.workers import check_executor
from autopeft.space import AllocationContext, Space
from autopeft.store import RunDir
from autopeft.train import MOVE, head_move
from autopeft.train.lengths import EVAL_COST, Lengths
from autopeft.types import (
    SIZE_SCORE,
    Arm,
    Decision,
    Plan,
    RunSpec,
    TargetScores,
    with_setting,
)

_SHOWN_SCORES = ("gradient", "fisher")  # which the report shows next to the score that orders target modules
USER_BASELINE = Arm(kind="given", label="your baseline")
_LARGEST_MARGIN = 0.5  # of a share; within it a coin is as good as a perfect plan; heuristic
_MIDDLE = 0.38  # of a range of rates (log scale); two runs there lose half a point to a sweep of eight
_SLOWER_HEAD = 0.25  # at 16 epochs 1 to 4 points better where labels are noisy, up to 7 worse elsewhere
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
    explicit: frozenset[str],
    resume: bool,
    out: Path | None,
    memory: InMemory = NAMED,
    interrupt: Callable[[], None] = lambda: None,
) -> Iterator[OpenedRun]:
    """Check the settings, load data and model, and fit the search space to the budget.

    `explicit` has the dotted names of the settings that the user set. With `resume` the run in
    `spec.output.out` is resumed with its settings. The run directory `out` is locked within the context;
    an error before the sensitivity is measured removes it. None, in a dry run, writes nothing. `interrupt` is
    called before each training step; what it raises stops the run.
    """
    spec = resumed(spec, explicit) if resume else with_demo_settings(spec, explicit)
    check_executor(spec)
    check_trackers(spec)
    requested = requested_space(spec)
    if is_own_metric(spec.task.metric):
        own_function(str(spec.task.metric))  # refuses a bad one before the model is loaded
    if spec.search.evaluate is not None:
        own_function(spec.search.evaluate, flag="--evaluate")
    if spec.search.baseline is not None:  # before the model is loaded
        adapters.check_user_file(Path(spec.search.baseline))
    place: contextlib.AbstractContextManager[RunDir | None] = (
        contextlib.nullcontext() if out is None else RunDir.create(out, resume=resume)
    )
    with place as folder:
        try:
            prepared = prepare(
                spec,
                keep_weights=folder.weights if folder else None,
                under_way=folder.under_way if folder else None,
                memory=memory,
                interrupt=interrupt,
            )
            check_comparison(prepared)
            feasible, context = fit_to_budget(prepared.spec, prepared.base, requested)
            own_plan = user_plan(prepared, context)  # refuses an unusable plan before anything is measured
            yield OpenedRun(
                prepared=with_evaluated_examples(prepared),
                requested=requested,
                feasible=feasible,
                context=context,
                user_plan=own_plan,
            )
        except BaseException:
            if folder:
                folder.discard()  # does nothing once the sensitivity is measured
            raise


def requested_space(spec: RunSpec) -> space.Space:
    """Load the search space, and reduce it to the requested methods and to what the servers can read.

    Raises SpecError if no arm remains.
    """
    methods = discover("autopeft.methods")
    requested = space.load(spec.search.space, known_methods=methods, only=spec.search.methods)
    if spec.search.serve_on:
        servers = space.SERVERS if "any" in spec.search.serve_on else spec.search.serve_on
        requested = space.servable(requested, servers, methods)
    return requested


def check_comparison(prepared: Prepared) -> None:
    """Raise unless the margin and the splits allow plans to be compared.

    Raises:
        SpecError: The metric is a share and the margin 0.5 or more: the user probably means points.
        DataError: The search or confirm split has one example, or the confirm split one group: that gives no
            interval.
    """
    margin, task = prepared.spec.search.margin, prepared.task
    if margin is not None and task.is_share and margin >= _LARGEST_MARGIN:
        raise SpecError(
            f"The margin is {margin:g}, but {task.metric} lies between 0 and 1 and 0.01 is one point of it; "
            f"did you mean --margin {margin / 100:g}?"
        )
    remedies = {
        "search": "add train rows",
        "confirm": "give a larger validation file, or leave it out so that the split is cut from train",
    }
    for name, remedy in remedies.items():
        n_examples = len(prepared.bench.splits[name].labels)
        if n_examples < _LEAST_COMPARED:
            raise DataError(
                f"The {name} split has {n_examples} example, and comparing plans needs at least "
                f"{_LEAST_COMPARED}; {remedy}."
            )
    groups = prepared.data.confirm.groups
    if groups and len(set(groups)) == 1:
        raise DataError(
            f"The {len(groups)} examples of the confirm split are of 1 group, and comparing plans needs at "
            f"least {_LEAST_COMPARED}; name a finer data.group_column, or give a validation file with more "
            "groups."
        )


def fit_to_budget(spec: RunSpec, base: BaseModel, requested: Space) -> tuple[Space, AllocationContext]:
    """Reduce a space to what fits model and budget, and make the context that allocates ranks, with scores 1.

    `base` may be a skeleton without weights.

    Raises:
        TargetError: No method of the space fits any target module.
        BudgetError: No plan of the space fits the budget.
    """
    is_served = bool(spec.search.serve_on)  # no server reads LoRA on experts in one parameter
    in_parameters = budget_of(spec, base)
    context = AllocationContext(
        targets=tuple(s for s in base.targets if not (is_served and s.kind == "parameter")),
        scores=dict.fromkeys((target.name for target in base.targets), 1.0),
        methods=methods_for(base),
        max_params=in_parameters.max_trainable_params,
    )
    costs = space.cheapest(requested, context)
    if not costs:
        names = ", ".join(requested.arms)
        raise TargetError(
            f"None of the methods {names} fits a target of {base.name} where the search space places it; ask "
            "for others, or for another placement."
        )
    budget.require_feasible(costs, budget=in_parameters)
    feasible = space.feasible(requested, context)
    if not base.head_params:
        feasible = feasible.model_copy(update={"head_factor": (1.0,)})
    for name in requested.arms:
        if name not in feasible.arms:
            log.info("%s is left out: nothing of it fits the model and the budget.", name)
            continue
        for (method, part), (_, fitting) in zip(requested.parts(name), feasible.parts(name), strict=True):
            for placement in part.placement:
                if placement not in fitting.placement:
                    log.info(
                        "%s at %s is left out: the model has no target module for it there.",
                        method,
                        placement,
                    )
    if missing_in_peft("Several configs", MIXES_SINCE_PEFT):
        feasible = of_one_config(feasible, context)
    return feasible, context


def user_plan(prepared: Prepared, context: AllocationContext) -> tuple[Arm, Plan] | None:
    """Read the plan of `--baseline`, with its arm; None without the flag. Warns if it is above the budget.

    A file without a learning rate gets the middle rate of its method, divided by the ratio of the file's
    scales to the method's: plans compare by rate times scale.
    """
    path = prepared.spec.search.baseline
    if path is None:
        return None
    with model.quiet_libraries():
        baseline = adapters.read_user_plan(Path(path), prepared.base, prepared.methods)
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
        method = prepared.methods[plan.lead_method]
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
    reasons = ("more would cost over a tenth of a full run", "fewer hardly distinguish plans")
    decision = Decision(
        setting="data.max_eval_examples",
        value=f"{n_examples:,}",
        rule=f"of {largest:,} in the largest split; {reasons[n_examples > n_in_share]}",
    )
    return replace(
        prepared,
        spec=with_setting(prepared.spec, "data.max_eval_examples", n_examples),
        decisions=(*prepared.decisions, decision),
    )


def search_problem(
    prepared: Prepared,
    feasible: space.Space,
    context: AllocationContext,
    scores: Sequence[TargetScores] = (),
    *,
    user_plan: tuple[Arm, Plan] | None = None,
    head_factors: Sequence[float] = (1.0,),
) -> SearchProblem:
    """Put together what the engine solves; `feasible` and `context` are what `fit_to_budget` returned.

    Without scores, as in a dry run, the first layers get the highest scores, and the learning rates of the
    head are placeholders.
    """
    spec, names = prepared.spec, [target.name for target in prepared.base.targets]
    by_name = {score.name: dict(zip(names, score.values, strict=True)) for score in scores}
    score = spec.search.score
    if (
        scores and score not in by_name
    ):  # no example fitted into memory: target modules are ordered by their weights
        score = SIZE_SCORE
        spec = with_setting(spec, "search.score", score)
    first_layers = {target.name: 1 / (1 + (target.layer or 0)) for target in prepared.base.targets}
    head_rates = (1.0, 1.0)
    if scores:
        with memory_needed("measuring the inputs of the task head", spec):
            head_rates = prepared.bench.head_rates.alone()
    return SearchProblem(
        spec=spec,
        space=feasible,
        context=replace(context, scores=by_name.get(score, first_layers)),
        family=prepared.task.defaults.family,
        lengths=Lengths(
            full_steps=prepared.full_steps,
            batch_size=prepared.bench.batch_size,
            n_search=prepared.n_evaluated("search"),
            n_confirm=prepared.n_evaluated("confirm"),
            n_test=prepared.n_evaluated("test"),
        ),
        metric=metric_facts(prepared.task),
        has_head=prepared.base.head_params > 0,
        head_rates=head_rates,
        head_factors=tuple(head_factors) if user_plan is None else (1.0,),
        user_plan=user_plan,
        groups=prepared.groups,
    )


def head_factors(prepared: Prepared) -> tuple[float, ...]:
    """List the factors of the head's learning rate to try in full runs: two where rows repeat often."""
    is_slow = prepared.base.head_params > 0 and head_move(prepared.bench.n_epochs) < MOVE
    is_tried = is_slow and not prepared.base.predicts_numbers and prepared.spec.search.effort != "quick"
    return (1.0, _SLOWER_HEAD) if is_tried else (1.0,)


def score_names(spec: RunSpec) -> list[str]:
    """Name the scores to compute: the one that orders target modules, and those that the report shows."""
    return list(dict.fromkeys([spec.search.score, *_SHOWN_SCORES]))


def rate_ranges(problem: SearchProblem) -> dict[str, tuple[float, float]]:
    """Give the range of learning rates of each method; under the name "" that of the head alone."""
    methods = problem.context.methods
    ranges = {name: space.learning_rates(problem.space, name, methods) for name in methods}
    return {"": problem.head_rates, **ranges}


def without_scores(requested: space.Space) -> space.Space:
    """Drop from a space the mixes of methods, and every choice that needs scores of target modules."""

    def narrow(_: str, part: space.MethodSpace) -> space.MethodSpace:
        return part.model_copy(update={"select": ("last_layers",)})

    methods = requested.only(requested.methods).narrowed(narrow)
    lists = {
        family: tuple(entry for entry in entries if entry.select == "last_layers")
        for family, entries in methods.listed.items()
    }
    return methods.model_copy(update={"listed": lists})


def of_one_config(feasible: space.Space, context: space.AllocationContext) -> space.Space:
    """Keep the placements at which a method's plan is one `peft` config, which any trainer can attach."""

    def narrow(name: str, part: space.MethodSpace) -> space.MethodSpace | None:
        placements = []
        for placement in part.placement:
            options = tuple((option, values[0]) for option, values in part.options.items())
            policy = space.Policy(method=name, placement=placement, options=options, learning_rate=1.0)
            unbounded = replace(context, max_params=sys.maxsize)
            if len(adapters.compile_plan(space.plan_of(policy, unbounded), context.methods).configs) == 1:
                placements.append(placement)
        if not placements:
            log.info("%s is left out: it takes several configs of peft on this model.", name)
        return part.model_copy(update={"placement": tuple(placements)}) if placements else None

    return feasible.narrowed(narrow)
