"""The search space: a YAML file says which policies there are, and a policy becomes a plan.

A policy is a dozen choices (method, placement, depth, how far the score bends the ranks,
learning rate); the allocator of `budget` turns it into ranks that spend the budget. So
every proposal is feasible and the sampler works on few dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from optuna.trial import Trial
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from autopeft.budget import Claim, allocate, natural_key
from autopeft.errors import SpecError, UnknownNameError
from autopeft.extension import Method
from autopeft.model import ROLE_GROUPS
from autopeft.records import Adapter, Plan, Site
from autopeft.store import read_yaml, validate

_RSLORA_ALPHA = 4.0  # alpha / sqrt(r) equals the constant scale at rank 4; chosen by hand
_CONSTANT_SCALE = 2.0  # alpha = 2 r, the habit of the LoRA community


def _ascending(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= values[0] <= values[1]:
        raise ValueError("a range [low, high] with 0 <= low <= high")
    return values


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
Share = Annotated[float, Field(gt=0, le=1)]


class MethodSpace(BaseModel):
    """What may be chosen within one method; a field left out has one choice.

    `placement` holds `all`, a role group (`attention`, `mlp`) or roles joined by + (`q+v`);
    `layer_share` and `exponent` are ranges; `learning_rate` None is the method's own range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    placement: tuple[str, ...] = Field(default=("all",), min_length=1)
    layer_share: Annotated[tuple[Share, Share], AfterValidator(_ascending)] = (1.0, 1.0)
    layers_by: tuple[Literal["last", "score"], ...] = Field(default=("last",), min_length=1)
    exponent: Range = (0.0, 0.0)
    scale_rule: tuple[Literal["constant", "rslora"], ...] = Field(default=("constant",), min_length=1)
    dora: tuple[bool, ...] = Field(default=(False,), min_length=1)
    max_rank: int = Field(default=64, ge=1)
    learning_rate: Range | None = None


class Space(BaseModel):
    """A search space as its file says it. `random_share` of the sampled proposals ignore the sampler."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    about: str
    methods: dict[str, MethodSpace] = Field(min_length=1)
    random_share: float = Field(default=0.25, ge=0, le=1)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One point of a search space; `layer_share` in (0, 1], `exponent` >= 0 (0 is uniform)."""

    method: str
    placement: str = "all"
    layer_share: float = 1.0
    layers_by: str = "last"
    exponent: float = 0.0
    scale_rule: str = "constant"
    dora: bool = False
    max_rank: int = 64
    learning_rate: float

    @property
    def arm(self) -> str:
        """Method × placement family, such as `lora/attention`."""
        return f"{self.method}{'+dora' if self.dora else ''}/{self.placement}"


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What policies are laid out on: the sites, their scores, the methods, and what may be spent.

    `scores` maps site name -> value >= 0; `max_params` is what is left for adapters.
    """

    sites: tuple[Site, ...]
    scores: Mapping[str, float]
    methods: Mapping[str, Method]
    max_params: int


def folder() -> Path:
    """Where the search spaces lie: inside an installed package, or beside it in a checkout."""
    packaged = Path(str(resources.files("autopeft"))) / "search_spaces"
    return packaged if packaged.is_dir() else packaged.parent.parent / "search_spaces"


def names() -> tuple[str, ...]:
    """The search spaces that come with autopeft."""
    return tuple(sorted(path.stem for path in folder().glob("*.yaml")))


def load(name: str, *, known_methods: Mapping[str, Method], only: Sequence[str] = ()) -> Space:
    """A search space by its name or its file.

    Args:
        name: One of `names()`, or the path of a YAML file.
        known_methods: Every method there is.
        only: Methods to keep; empty keeps all of the space.

    Raises:
        UnknownNameError: No such space, method or key.
        SpecError: The file cannot be read, or none of `only` is in the space.
    """
    is_path = name.endswith((".yaml", ".yml")) or "/" in name
    if not is_path and name not in names():
        raise UnknownNameError("search space", name, names())
    path = Path(name) if is_path else folder() / f"{name}.yaml"
    space = validate(Space, read_yaml(path), source=str(path) if is_path else f"search space {name}")
    for method in (*space.methods, *only):
        known_methods[method]  # an unknown name is answered with the known ones
    _check_placements(space, source=name)
    absent = [method for method in only if method not in space.methods]
    if absent:
        held = ", ".join(sorted(space.methods))
        raise SpecError(f"The search space {name!r} has no method {absent[0]!r}; it holds {held}.")
    if only:
        space = space.model_copy(
            update={"methods": {m: space.methods[m] for m in space.methods if m in only}}
        )
    return space


def _check_placements(space: Space, *, source: str) -> None:
    roles = {
        "all",
        "dense",
        "norm",
        *ROLE_GROUPS,
        *(role for group in ROLE_GROUPS.values() for role in group),
    }
    for method in space.methods.values():
        for placement in method.placement:
            for role in placement.split("+"):
                if role not in roles:
                    raise UnknownNameError(f"role or role group (search space {source})", role, roles)


def feasible(space: Space, ground: Ground) -> Space:
    """The space without the methods of which not even one site fits the budget, or none fits the model."""
    costs = cheapest(space, ground)
    kept = {
        name: own
        for name, own in space.methods.items()
        if costs.get(name, ground.max_params + 1) <= ground.max_params
    }
    return space.model_copy(update={"methods": kept})


def cheapest(space: Space, ground: Ground) -> dict[str, int]:
    """Method -> trainable parameters of its smallest plan, for the methods that fit some site."""
    smallest = {}
    for name in space.methods:
        method = ground.methods[name]
        costs = [method.cost(site, 1, method.options(site)) for site in ground.sites if method.fits(site)]
        if costs:
            smallest[name] = min(costs)
    return smallest


def suggest(trial: Trial, space: Space, methods: Mapping[str, Method]) -> Policy:
    """The policy that a trial's sampler proposes; choices of one are not asked for."""
    name = _choose(trial, "method", tuple(space.methods))
    own = space.methods[name]
    low, high = learning_rates(space, name, methods)
    return Policy(
        method=name,
        placement=_choose(trial, f"{name}.placement", own.placement),
        layer_share=_draw(trial, f"{name}.layer_share", own.layer_share),
        layers_by=_choose(trial, f"{name}.layers_by", own.layers_by),
        exponent=_draw(trial, f"{name}.exponent", own.exponent),
        scale_rule=_choose(trial, f"{name}.scale_rule", own.scale_rule),
        dora=_choose(trial, f"{name}.dora", own.dora),
        max_rank=own.max_rank,
        learning_rate=_draw(trial, f"{name}.learning_rate", (low, high), log=True),
    )


def _choose(trial: Trial, name: str, choices: Sequence[Any]) -> Any:
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, choices)


def _draw(trial: Trial, name: str, bounds: tuple[float, float], *, log: bool = False) -> float:
    low, high = bounds
    return low if low == high else trial.suggest_float(name, low, high, log=log)


def parameters_of(policy: Policy, space: Space, methods: Mapping[str, Method]) -> dict[str, Any] | None:
    """The trial parameters under which `suggest` gives this policy; None where the space lacks it."""
    own = space.methods.get(policy.method)
    if own is None or policy.max_rank != own.max_rank:
        return None
    parameters: dict[str, Any] = {"method": policy.method} if len(space.methods) > 1 else {}
    for field in fields(Policy):
        value = getattr(policy, field.name)
        name = f"{policy.method}.{field.name}"
        if field.name in ("placement", "layers_by", "scale_rule", "dora"):
            choices = getattr(own, field.name)
            if value not in choices:
                return None
            if len(choices) > 1:
                parameters[name] = value
        elif field.name in ("layer_share", "exponent", "learning_rate"):
            is_rate = field.name == "learning_rate"
            low, high = learning_rates(space, policy.method, methods) if is_rate else getattr(own, field.name)
            if not low <= value <= high:
                return None
            if low < high:
                parameters[name] = value
    return parameters


def learning_rates(space: Space, method: str, methods: Mapping[str, Method]) -> tuple[float, float]:
    """The range of learning rates of a method: the space's where it has one, else the method's own."""
    own = space.methods.get(method)
    return (own.learning_rate if own else None) or methods[method].learning_rate_range


def plan_of(policy: Policy, ground: Ground) -> Plan:
    """The plan that a policy means on this ground: never over the budget, no affordable upgrade left.

    A policy whose sites are all too dear is widened, first to all layers and roles, then to
    no DoRA, so that no proposal is rejected for its size.
    """
    method = ground.methods[policy.method]
    wider = replace(policy, placement="all", layer_share=1.0)
    for attempt in (policy, wider, replace(wider, dora=False)):
        adapters = _allocate(attempt, ground, method)
        if adapters:
            break
    cost = {site.name: site for site in ground.sites}
    total = sum(method.cost(cost[a.site], a.rank, dict(a.options)) for a in adapters)
    return Plan(adapters=adapters, learning_rate=policy.learning_rate, trainable_params=total)


def _allocate(policy: Policy, ground: Ground, method: Method) -> tuple[Adapter, ...]:
    sites = select_sites(policy, ground, method)
    options = {site.name: method.options(site, dora=policy.dora) for site in sites}
    claims = [
        Claim(
            site=site.name,
            weight=_weight(site, policy, ground, cost=method.cost(site, 1, options[site.name])),
            max_rank=min(policy.max_rank, method.max_rank(site)),
            cost=lambda rank, site=site: method.cost(site, rank, options[site.name]),  # type: ignore[misc]
        )
        for site in sites
    ]
    ranks = allocate(claims, max_params=ground.max_params)
    return tuple(
        Adapter(
            method=policy.method,
            site=site,
            rank=rank if method.ranked else 0,
            scale=_scale(policy.scale_rule, rank) if method.ranked else 1.0,
            options=tuple(sorted(options[site].items())),
        )
        for site, rank in ranks.items()
    )


def _weight(site: Site, policy: Policy, ground: Ground, *, cost: int) -> float:
    """Score per trained parameter, bent by the exponent; 1 for all at exponent 0."""
    return float((ground.scores[site.name] / cost) ** policy.exponent)


def _scale(rule: str, rank: int) -> float:
    return _CONSTANT_SCALE if rule == "constant" else float(_RSLORA_ALPHA / rank**0.5)


def select_sites(policy: Policy, ground: Ground, method: Method) -> list[Site]:
    """The sites that a policy's roles and depth leave, in natural order of names.

    Sites outside the stack (a pooler, say) belong to the placement `all`. The deepest
    layers are kept, or those with the largest score over the candidate sites.
    """
    fitting = [site for site in ground.sites if method.fits(site) and _has_role(site, policy.placement)]
    layers = sorted({site.layer for site in fitting if site.layer is not None})
    n_kept = max(1, round(policy.layer_share * len(layers)))
    if policy.layers_by == "score":
        total = {layer: sum(ground.scores[s.name] for s in fitting if s.layer == layer) for layer in layers}
        layers.sort(key=lambda layer: (total[layer], layer))
    kept = {None, *layers[-n_kept:]}
    return sorted((site for site in fitting if site.layer in kept), key=lambda site: natural_key(site.name))


def _has_role(site: Site, placement: str) -> bool:
    if placement == "all":
        return True
    wanted = {role for part in placement.split("+") for role in ROLE_GROUPS.get(part, (part,))}
    return site.role in wanted


def baseline_policies(ground: Ground, *, learning_rate: float) -> dict[str, Policy]:
    """The LoRA that a careful person would use at this budget, by name.

    All linear maps where rank 1 fits everywhere; else both all maps of as many last layers
    as fit, and q and v of as many last layers as fit; the search finds the better one.
    """
    uniform = Policy(method="lora", learning_rate=learning_rate)
    if _rank_one_cost(uniform, ground) <= ground.max_params:
        return {"LoRA on all linear maps": uniform}
    queries = "q+v" if any(site.role == "q" for site in ground.sites) else "qkv"
    found = {}
    for label, placement in (("all linear maps", "all"), ("q and v", queries)):
        policy = _last_layers(replace(uniform, placement=placement), ground)
        if policy is not None:
            found[f"LoRA on {label} of the last layers"] = policy
    return found or {"LoRA on what fits": uniform}


def _last_layers(policy: Policy, ground: Ground) -> Policy | None:
    n_layers = len({site.layer for site in ground.sites if site.layer is not None})
    for kept in range(n_layers, 0, -1):
        candidate = replace(policy, layer_share=kept / n_layers)
        if 0 < _rank_one_cost(candidate, ground) <= ground.max_params:
            return candidate
    return None


def _rank_one_cost(policy: Policy, ground: Ground) -> int:
    method = ground.methods[policy.method]
    return sum(method.cost(site, 1, {}) for site in select_sites(policy, ground, method))
