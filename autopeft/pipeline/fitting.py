"""The budget in parameters, and the part of a search space that fits it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from autopeft import budget, space
from autopeft.errors import SiteError, SpecError
from autopeft.pipeline.prepare import Prepared
from autopeft.records import FLOAT32_BYTES, Budget
from autopeft.space import AllocationContext, Space

log = logging.getLogger(__name__)


def parse_budget(prepared: Prepared) -> Budget:
    """The requested budget in parameters."""
    return budget.parse(prepared.spec.budget.requested, base_params=prepared.base.base_params)


def fit_to_budget(prepared: Prepared, requested: Space) -> tuple[Space, AllocationContext]:
    """The part of a space that fits model and budget, and what an allocation needs; all scores are 1.

    With `--count-head` the task head takes its part of the budget; of `--max-adapter-size` it always does.

    Raises:
        SpecError: No plan of the space fits into `--max-adapter-size`.
        SiteError: No method of the space fits any site.
        BudgetError: No plan of the space fits the budget.
    """
    parsed = parse_budget(prepared)
    head_params = prepared.base.head_params if prepared.spec.budget.count_head else 0
    available = parsed.max_trainable_params - head_params
    in_file = _params_in_file(prepared)
    is_served = bool(prepared.spec.search.serve_on)  # no server reads LoRA on experts in one parameter
    context = AllocationContext(
        sites=tuple(s for s in prepared.base.sites if not (is_served and s.kind == "parameter")),
        scores=dict.fromkeys((site.name for site in prepared.base.sites), 1.0),
        methods=prepared.methods,
        max_params=max(0, min(available, in_file)),
    )
    costs = space.cheapest(requested, context)
    if not costs:
        names = ", ".join(requested.arms)
        limits = _under_cap(prepared, requested.arms, requested) or _under_space(requested, context)
        raise SiteError(
            f"None of the methods {names} fits a site of {prepared.base.name}{limits}; ask for others."
        )
    budget.require_affordable(costs, budget=parsed, available=available)
    if (least := min(costs.values())) > in_file:
        limit, head = prepared.spec.limits.max_adapter_bytes, FLOAT32_BYTES * prepared.base.head_params
        raise SpecError(
            f"--max-adapter-size allows {limit:,} bytes; the cheapest plan needs {FLOAT32_BYTES * least:,} "
            f"beside {head:,} of the task head. Raise --max-adapter-size."
        )
    feasible = space.feasible(requested, context)
    for name in requested.arms:
        if name not in feasible.arms:
            cap = _under_cap(prepared, [name], requested)
            log.info("%s is left out: nothing of it fits the model and the budget%s.", name, cap)
            continue
        for (method, before), (_, after) in zip(requested.parts(name), feasible.parts(name), strict=True):
            for placement in before.placement:
                if placement not in after.placement:
                    log.info("%s at %s is left out: the model has no site for it there.", method, placement)
    return feasible, context


def _under_cap(prepared: Prepared, arms: Iterable[str], requested: Space) -> str:
    """A phrase that names `--max-rank` where it bounds a method of some arms of a space; else empty."""
    methods = [prepared.methods[name] for arm in arms for name, _ in requested.parts(arm)]
    is_capped = any(method.ranked and method.low_rank for method in methods)
    cap = prepared.spec.limits.max_rank
    return f" under --max-rank {cap:,}" if cap is not None and is_capped else ""


def _under_space(requested: Space, context: AllocationContext) -> str:
    """A phrase with the placements of a space where its methods would fit at others; else empty."""
    everywhere = requested.narrowed(lambda _, part: part.model_copy(update={"placement": ("all",)}))
    if not space.cheapest(everywhere, context):
        return ""
    placements = [part.placement for arm in requested.arms for _, part in requested.parts(arm)]
    shown = dict.fromkeys(f"placement {', '.join(placement)}" for placement in placements)
    return f" at the placement that the search space sets ({', '.join(shown)})"


def _params_in_file(prepared: Prepared) -> int:
    """Parameters of adapters for which `--max-adapter-size` has room beside the task head."""
    limit = prepared.spec.limits.max_adapter_bytes
    return prepared.base.base_params if limit is None else limit // FLOAT32_BYTES - prepared.base.head_params
