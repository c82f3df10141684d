"""A plan of another base model, dataset or budget, mapped to the sites of this run by role and depth."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autopeft.budget import Claim, allocate
from autopeft.errors import SpecError
from autopeft.records import Adapter, Plan, Site
from autopeft.space.layout import AllocationContext, Place, params_of, place_at, scale_rule

# Some models fuse maps that others keep apart: which roles stand for a role that the source lacks.
_KIN: Mapping[str, Sequence[str]] = {
    "q": ("qkv",),
    "k": ("kv", "qkv"),
    "v": ("kv", "qkv"),
    "kv": ("k", "v", "qkv"),
    "qkv": ("q", "k", "v", "kv"),
    "gate": ("gate_up",),
    "up": ("gate_up",),
    "gate_up": ("up", "gate"),
}
# A plan that spends this share of a budget was made for it. Chosen by hand: the allocator leaves less than
# one rank of one site, unless a cap stops it, which a plan does not know.
_SPENDS_IT = 0.9


@dataclass(frozen=True, kw_only=True)
class Transferred:
    """A plan on new sites; `lost` says in phrases which adapters of the source have no successor."""

    plan: Plan
    lost: tuple[str, ...] = ()


def transfer(
    plan: Plan,
    source_sites: Sequence[Site],
    context: AllocationContext,
    *,
    source_budget: int | None = None,
    max_rank: int | None = None,
) -> Transferred:
    """The plan for the sites of the context, its ranks refitted to the budget.

    Each site takes method and options from the source site with its role at the nearest relative depth. It
    gets no adapter where that source site has none. Ranks are in proportion to those of the source, so that
    the same model and budget give the same plan. A plan that left a share of its budget leaves that share.

    Args:
        plan: Its adapters stand at some of `source_sites`.
        source_sites: All sites of the base model that the plan was made for.
        context: The sites, methods and budget to map it to.
        source_budget: Trainable parameters that the plan could have; None where that is not known.
        max_rank: Cap on the new ranks of low-rank matrices.

    Raises:
        SpecError: No adapter of the plan maps to a site, or none is affordable.
    """
    shapes, source_shapes = (
        {(site.name, site.in_features, site.out_features) for site in sites}
        for sites in (context.sites, source_sites)
    )
    if shapes == source_shapes and _fits(plan, context, source_budget, max_rank):
        return Transferred(plan=plan)
    pairs, refused = _pairs(source_sites, plan, context, max_rank)
    allowed = context.max_params
    if source_budget is not None and plan.trainable_params < source_budget:
        allowed = allowed * plan.trainable_params // source_budget
    largest = max((pair.source.rank for pair in pairs), default=0) or 1
    ranks = allocate([pair.claim(largest=largest) for pair in pairs], max_params=allowed)
    if plan.adapters and not ranks:
        reason = "no site here has the role of one of its sites"
        reason = "no adapter of it fits the budget" if pairs else reason
        raise SpecError(f"The plan {plan.digest} cannot be mapped: {reason}; start without it.")
    by_site = {pair.place.site.name: pair for pair in pairs}
    rules = {a.method: scale_rule(context.methods[a.method], plan.adapters) for a in plan.adapters}
    adapters = tuple(by_site[name].adapter(rank, rules) for name, rank in ranks.items())
    return Transferred(
        plan=replace(plan, adapters=adapters, trainable_params=params_of(adapters, context)),
        lost=(*refused, *_unused(source_sites, plan, pairs), *_unpaid(pairs, ranks)),
    )


def _fits(plan: Plan, context: AllocationContext, source_budget: int | None, max_rank: int | None) -> bool:
    """Whether a plan of the same model may stay as it is."""
    is_too_large = plan.trainable_params > context.max_params
    capped = [a for a in plan.adapters if context.methods[a.method].low_rank]
    if is_too_large or (max_rank is not None and any(a.rank > max_rank for a in capped)):
        return False
    if source_budget is not None:
        return source_budget == context.max_params
    return plan.trainable_params >= _SPENDS_IT * context.max_params


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A place at a site of this run, and the source adapter that is mapped to it."""

    place: Place
    source: Adapter

    def claim(self, *, largest: int) -> Claim:
        """Weighed by the source's rank; an adapter without a rank, being cheap, weighs as the largest."""
        place = self.place
        weight = (self.source.rank or largest) / place.ranks[0]
        return Claim(site=place.site.name, weight=weight, ranks=place.ranks, cost=place.cost)

    def adapter(self, rank: int, rules: Mapping[str, str | None]) -> Adapter:
        method = self.place.method
        rule = rules[method.name]
        return replace(
            self.source,
            site=self.place.site.name,
            rank=rank if method.ranked else 0,
            scale=self.source.scale if rule is None else method.scale(rank, scale_rule=rule),
            options=self.place.options,
        )


def _pairs(
    source_sites: Sequence[Site], plan: Plan, context: AllocationContext, max_rank: int | None
) -> tuple[list[_Pair], list[str]]:
    """The sites that take an adapter, and phrases that say where a method does not fit."""
    held = {adapter.site: adapter for adapter in plan.adapters}
    sources, targets = _by_role(source_sites), _by_role(context.sites)
    pairs: list[_Pair] = []
    refused: Counter[str] = Counter()
    for role, placed in targets.items():
        kin = [other for other in ((role,) if role in sources else _KIN.get(role, ())) if other in sources]
        for target in placed:
            nearest = [_nearest(sources[other], target) for other in kin]
            adapters = [held[site.name] for site in nearest if site and site.name in held]
            if not adapters:
                continue
            # Of several maps that are fused here, the one with the largest rank; the first on ties.
            source = max(adapters, key=lambda adapter: adapter.rank)
            place = _place(target.site, source, context, max_rank)
            if isinstance(place, Place):
                pairs.append(_Pair(place=place, source=source))
            else:
                refused[f"{source.method} at the role {role} ({place})"] += 1
    return pairs, [f"{phrase}: {_n_sites(n)}" for phrase, n in refused.items()]


def _place(site: Site, source: Adapter, context: AllocationContext, max_rank: int | None) -> Place | str:
    """The place of the source's method, or a phrase why the method does not fit."""
    method = context.methods[source.method]
    refusal = method.refusal(site)
    if refusal is not None:
        return refusal
    chosen = {name: value for name, value in source.options if name in method.choices}
    highest = max_rank if method.low_rank else None
    return place_at(site, method, chosen, (None, highest)) or "no rank of it is allowed"


@dataclass(frozen=True)
class _Placed:
    """A site with its relative depth in (0, 1), None outside the stack, and its index in layer and role."""

    site: Site
    depth: float | None
    index: int


def _by_role(sites: Sequence[Site]) -> dict[str, list[_Placed]]:
    n_layers = 1 + max((site.layer for site in sites if site.layer is not None), default=0)
    n_seen: Counter[tuple[str, int | None]] = Counter()
    by_role: dict[str, list[_Placed]] = defaultdict(list)
    for site in sites:
        depth = None if site.layer is None else (site.layer + 0.5) / n_layers
        by_role[site.role].append(_Placed(site, depth, n_seen[site.role, site.layer]))
        n_seen[site.role, site.layer] += 1
    return by_role


def _nearest(sources: Sequence[_Placed], target: _Placed) -> Site | None:
    """The source at the nearest relative depth, of equally near ones the deeper, then the nearest index.

    Sites outside the stack are compared with each other alone; None where there is none to compare.
    """

    def distance(source: _Placed) -> tuple[float, int, int]:
        gap = round(abs((source.depth or 0) - (target.depth or 0)), 9)
        return gap, -(source.site.layer or 0), abs(source.index - target.index)

    alike = [source for source in sources if (source.depth is None) == (target.depth is None)]
    return min(alike, key=distance).site if alike else None


def _unused(source_sites: Sequence[Site], plan: Plan, pairs: Sequence[_Pair]) -> list[str]:
    """Phrases for the source adapters that are mapped to no site, by role."""
    roles = {site.name: site.role for site in source_sites}
    used = {pair.source.site for pair in pairs}
    adapted = Counter(roles.get(adapter.site, "unknown") for adapter in plan.adapters)
    unused = Counter(roles.get(a.site, "unknown") for a in plan.adapters if a.site not in used)
    return [f"{n} of {adapted[role]} adapters at the role {role}" for role, n in sorted(unused.items())]


def _unpaid(pairs: Sequence[_Pair], ranks: Mapping[str, int]) -> list[str]:
    """Phrases for the mapped sites that the budget does not pay, by role."""
    roles = Counter(pair.place.site.role for pair in pairs if pair.place.site.name not in ranks)
    return [f"{_n_sites(n)} of the role {role}, which the budget does not pay" for role, n in roles.items()]


def _n_sites(n: int) -> str:
    return f"{n} site" if n == 1 else f"{n} sites"
