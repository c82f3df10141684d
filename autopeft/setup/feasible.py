"""The part of a search space that fits model and budget."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

from autopeft import adapters, budget, space
from autopeft.errors import TargetError
from autopeft.model import BaseModel
from autopeft.plugins import MIXES_SINCE_PEFT, discover, missing_in_peft
from autopeft.setup.look import methods_for
from autopeft.setup.resources import budget_of
from autopeft.space import AllocationContext, Space
from autopeft.types import RunSpec

log = logging.getLogger(__name__)


def requested_space(spec: RunSpec) -> Space:
    """Load the search space, and reduce it to the requested methods and to what the servers can read.

    Raises SpecError if no arm remains.
    """
    methods = discover("autopeft.methods")
    requested = space.load(spec.search.space, known_methods=methods, only=spec.search.methods)
    if spec.search.serve_on:
        servers = space.SERVERS if "any" in spec.search.serve_on else spec.search.serve_on
        requested = space.servable(requested, servers, methods)
    return requested


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
        targets=tuple(s for s in base.chosen if not (is_served and s.kind == "parameter")),
        scores=dict.fromkeys((target.name for target in base.chosen), 1.0),
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
    for name in requested.arms:
        if name in costs and name not in feasible.arms:
            log.info("%s is left out: its smallest plan has %s parameters.", name, f"{costs[name]:,}")
        elif name not in costs and spec.search.methods:
            log.info("%s is left out: it fits no target module.", name)
    if missing_in_peft("Several configs", MIXES_SINCE_PEFT):
        feasible = of_one_config(feasible, context)
    return feasible, context


def without_scores(requested: Space) -> Space:
    """Drop from a space the mixes of methods, and every choice that needs scores of target modules."""

    def narrow(_: str, part: space.MethodSpace) -> space.MethodSpace:
        return part.model_copy(update={"select": ("last_layers",)})

    methods = requested.only(requested.methods).narrowed(narrow)
    lists = {
        family: tuple(entry for entry in entries if entry.select == "last_layers")
        for family, entries in methods.listed.items()
    }
    return methods.model_copy(update={"listed": lists})


def of_one_config(feasible: Space, context: AllocationContext) -> Space:
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
