"""A plan of another base model, dataset or budget, laid out on this context by role and relative depth."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autopeft.budget import Claim, allocate
from autopeft.errors import SpecError
from autopeft.extension import Method
from autopeft.records import Adapter, Options, Plan, Site
from autopeft.space.layout import AllocationContext, allowed_ranks, params_of

# Where a model has maps fused that another keeps apart: what stands for a role that the source lacks.
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
# A plan that spends so much of a budget was made for it; chosen by hand, as the allocator leaves less
# than one rank of one site, but for caps that a plan does not know.
_SPENDS_IT = 0.9


@dataclass(frozen=True, kw_only=True)
class Transferred:
    """A plan on new context, and as phrases what of the old one is not in it."""

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
    """The plan on this context, its ranks refitted to the budget.

    Each site here takes method and options of the site with its role at the nearest relative depth there;
    where that has no adapter, neither has this. Ranks go out in proportion to those there, so that the same
    model and budget give the same plan. A plan that left some of its budget leaves as much of this one.

    Args:
        plan: Its adapters stand at some of `source_sites`.
        source_sites: All sites of the base model that it was made for.
        context: Where it goes.
        source_budget: What it was made under, in trainable parameters; None where that is not known.
        max_rank: Cap on ranks here.

    Raises:
        SpecError: Nothing of it maps, or not one adapter of it is affordable.
    """
    held = {adapter.site: adapter for adapter in plan.adapters}
    is_same = _shapes(source_sites) == _shapes(context.sites)
    if is_same and _fits(plan, context, source_budget, max_rank):
        return Transferred(plan=plan)
    pairs, refused = _pairs(source_sites, held, context, max_rank)
    rules = {name: _scale_rule(context.methods[name], plan) for name in {a.method for a in plan.adapters}}
    allowed = context.max_params
    if source_budget is not None and plan.trainable_params < source_budget:
        allowed = allowed * plan.trainable_params // source_budget
    largest = max((pair.source.rank for pair in pairs), default=1)
    ranks = allocate([pair.claim(largest=max(1, largest)) for pair in pairs], max_params=allowed)
    by_site = {pair.site.name: pair for pair in pairs}
    adapters = tuple(by_site[name].adapter(rank, rules) for name, rank in ranks.items())
    if plan.adapters and not adapters:
        reason = (
            "no adapter of it fits the budget" if pairs else "no site here has the role of one of its own"
        )
        raise SpecError(f"The plan {plan.digest} cannot be mapped: {reason}; start without it.")
    return Transferred(
        plan=replace(plan, adapters=adapters, trainable_params=params_of(adapters, context)),
        lost=(*refused, *_unused(source_sites, held, pairs), *_unpaid(pairs, ranks)),
    )


def _shapes(sites: Sequence[Site]) -> set[tuple[str, int, int]]:
    return {(site.name, site.in_features, site.out_features) for site in sites}


def _fits(plan: Plan, context: AllocationContext, source_budget: int | None, max_rank: int | None) -> bool:
    """Whether a plan of the same model may stay as it is."""
    if plan.trainable_params > context.max_params:
        return False
    if max_rank is not None and any(adapter.rank > max_rank for adapter in plan.adapters):
        return False
    if source_budget is not None:
        return source_budget == context.max_params
    return plan.trainable_params >= _SPENDS_IT * context.max_params


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A site here, and the adapter there that it takes after."""

    site: Site
    source: Adapter
    method: Method
    options: Options
    ranks: Sequence[int]

    def claim(self, *, largest: int) -> Claim:
        """By the rank there; without a rank as much as the largest, since it costs a vector only."""
        rank = self.source.rank or largest
        return Claim(
            site=self.site.name,
            weight=rank / self.ranks[0],
            ranks=self.ranks,
            cost=lambda own: self.method.cost(self.site, own, dict(self.options)),
        )

    def adapter(self, rank: int, rules: Mapping[str, str | None]) -> Adapter:
        rule = rules[self.method.name]
        scale = self.source.scale if rule is None else self.method.scale(rank, scale_rule=rule)
        return replace(
            self.source,
            site=self.site.name,
            rank=rank if self.method.ranked else 0,
            scale=scale,
            options=self.options,
        )


def _pairs(
    source_sites: Sequence[Site],
    held: Mapping[str, Adapter],
    context: AllocationContext,
    max_rank: int | None,
) -> tuple[list[_Pair], list[str]]:
    """The sites here that take an adapter, and as phrases where a method does not fit."""
    there, here = _by_role(source_sites), _by_role(context.sites)
    pairs: list[_Pair] = []
    refused: Counter[str] = Counter()
    for role, own in here.items():
        for site, depth, place in own:
            kin = (role,) if role in there else _KIN.get(role, ())
            models = [_nearest(there[other], depth, place) for other in kin if other in there]
            adapters = [held[model.name] for model in models if model and model.name in held]
            if not adapters:
                continue
            source = max(
                adapters, key=lambda adapter: adapter.rank
            )  # of fused maps the largest; first on ties
            pair = _pair(site, source, context, max_rank)
            if isinstance(pair, _Pair):
                pairs.append(pair)
            else:
                refused[f"{source.method} at the role {role} ({pair})"] += 1
    return pairs, [f"{told}: {_n_sites(n)}" for told, n in refused.items()]


def _by_role(sites: Sequence[Site]) -> dict[str, list[tuple[Site, float | None, int]]]:
    """Role -> its sites with relative depth in (0, 1), None outside the stack, and place in the layer."""
    n_layers = 1 + max((site.layer for site in sites if site.layer is not None), default=0)
    seen: Counter[tuple[str, int | None]] = Counter()
    found: dict[str, list[tuple[Site, float | None, int]]] = defaultdict(list)
    for site in sites:
        depth = None if site.layer is None else (site.layer + 0.5) / n_layers
        found[site.role].append((site, depth, seen[site.role, site.layer]))
        seen[site.role, site.layer] += 1
    return found


def _nearest(known: Sequence[tuple[Site, float | None, int]], depth: float | None, place: int) -> Site | None:
    """The site at the nearest relative depth, then at the nearest place in its layer; the later on ties.

    What lies outside the stack takes after what does, too; None where there is no such site.
    """

    def distance(entry: tuple[Site, float | None, int]) -> tuple[float, int, int]:
        site, own, own_place = entry
        gap = 0.0 if own is None or depth is None else round(abs(own - depth), 9)
        return gap, -(site.layer or 0), abs(own_place - place)

    alike = [entry for entry in known if (entry[1] is None) == (depth is None)]
    return min(alike, key=distance)[0] if alike else None


def _pair(site: Site, source: Adapter, context: AllocationContext, max_rank: int | None) -> _Pair | str:
    """The pair, or why the method cannot be put there."""
    method = context.methods[source.method]
    refusal = method.refusal(site)
    if refusal is not None:
        return refusal
    chosen = {name: value for name, value in source.options if name in method.choices}
    options = method.options(site, **chosen)
    ranks = allowed_ranks(method, site, options, (None, max_rank), context)
    if not ranks:
        return "no rank of it is allowed"
    listed = tuple(sorted(options.items()))
    return _Pair(site=site, source=source, method=method, options=listed, ranks=ranks)


def _scale_rule(method: Method, plan: Plan) -> str | None:
    """The rule that gives the scale of all adapters of a method; None where they have one of their own."""
    own = [adapter for adapter in plan.adapters if adapter.method == method.name]
    for rule in method.choices.get("scale_rule", ()):
        if all(math.isclose(method.scale(a.rank, scale_rule=rule), a.scale) for a in own):
            return str(rule)
    return None


def _unused(
    source_sites: Sequence[Site], held: Mapping[str, Adapter], pairs: Sequence[_Pair]
) -> tuple[str, ...]:
    """Adapters there that no site here takes after, by role."""
    used = {pair.source.site for pair in pairs}
    roles = {site.name: site.role for site in source_sites}
    adapted = Counter(roles.get(name, "unknown") for name in held)
    unused = Counter(roles.get(name, "unknown") for name in held if name not in used)
    return tuple(f"{n} of {adapted[role]} adapters at the role {role}" for role, n in sorted(unused.items()))


def _unpaid(pairs: Sequence[_Pair], ranks: Mapping[str, int]) -> tuple[str, ...]:
    """Sites here that would take one and that the budget does not reach."""
    roles = Counter(pair.site.role for pair in pairs if pair.site.name not in ranks)
    return tuple(
        f"{_n_sites(n)} of the role {role}, which the budget does not pay" for role, n in roles.items()
    )


def _n_sites(n: int) -> str:
    return f"{n} site" if n == 1 else f"{n} sites"
