"""The files of search spaces: what may be chosen, read strictly and checked against the methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from autopeft.errors import SpecError, UnknownNameError
from autopeft.extension import Method
from autopeft.model import ROLE_GROUPS
from autopeft.records import OptionValue
from autopeft.store import read_yaml, validate

SERVERS = ("vllm", "tgi", "llama.cpp")


def _ascending(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= values[0] <= values[1]:
        raise ValueError("a range [low, high] with 0 <= low <= high")
    return values


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
Share = Annotated[float, Field(gt=0, le=1)]
Choices = dict[str, Annotated[tuple[OptionValue, ...], Field(min_length=1)]]


class MethodSpace(BaseModel):
    """What may be chosen within one method; a field left out has one choice.

    `placement` holds `all`, a role group (`attention`, `mlp`) or roles joined by + (`q+v`);
    `layer_share` and `exponent` are ranges; `ranks_by` keeps ranks uniform, bends them by the score to
    the power of the exponent, or follows the gradient's spectrum; `options` maps the method's own options
    to choices; `max_rank` None is the method's largest; `learning_rate` None is its own range.

    `layers_by` says which layers a share keeps (last, first, middle or the best-scored); `any` turns
    each of `depth_parts` equal parts of the depth on or off, and `lead` goes by a mix's first part. A site
    gets nothing rather than less than `min_rank`; `size` is the rank at every site, 0 for none
    at all. `budget_share` is what the whole plan may spend.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    placement: tuple[str, ...] = Field(default=("all",), min_length=1)
    layer_share: Annotated[tuple[Share, Share], AfterValidator(_ascending)] = (1.0, 1.0)
    layers_by: tuple[Literal["last", "first", "middle", "score", "any", "lead"], ...] = Field(
        default=("last",), min_length=1
    )
    depth_parts: int = Field(default=12, ge=1, le=64)
    exponent: Range = (0.0, 0.0)
    ranks_by: tuple[Literal["uniform", "score", "spectrum"], ...] = Field(default=("score",), min_length=1)
    options: Choices = {}
    min_rank: int | None = Field(default=None, ge=1)
    max_rank: int | None = Field(default=None, ge=1)
    size: tuple[Annotated[int, Field(ge=0)], ...] = ()
    budget_share: Annotated[tuple[Share, Share], AfterValidator(_ascending)] = (1.0, 1.0)
    learning_rate: Range | None = None

    @property
    def may_be_absent(self) -> bool:
        """Whether a policy may have nothing of this: no size, or every part of the depth off."""
        return 0 in self.size or "any" in self.layers_by


class MixPart(MethodSpace):
    """One method of a mix. Its learning rate keeps its place in its own range: see `rate_factor`."""

    method: str


class Space(BaseModel):
    """A search space as its file says it. `random_share` of the sampled proposals ignore the sampler.

    A mix is several methods in one plan, on disjoint sites and one budget: the first part takes its
    sites, each later one those of its own that are left.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    about: str
    methods: dict[str, MethodSpace] = {}
    mixes: dict[str, Annotated[tuple[MixPart, ...], Field(min_length=2)]] = {}
    random_share: float = Field(default=0.25, ge=0, le=1)

    @property
    def arms(self) -> tuple[str, ...]:
        """What a policy chooses among first: the names of methods and mixes."""
        return (*self.methods, *self.mixes)

    def parts(self, arm: str) -> tuple[tuple[str, MethodSpace], ...]:
        """Method and choices of each part of a method (one) or a mix (several)."""
        if arm in self.methods:
            return ((arm, self.methods[arm]),)
        return tuple((part.method, part) for part in self.mixes[arm])

    def sharing(self, low: float) -> Space:
        """The same space whose plans may also spend less of the budget, from the share `low` on."""
        bounds = {"budget_share": (low, 1.0)}
        return self.model_copy(
            update={
                "methods": {name: own.model_copy(update=bounds) for name, own in self.methods.items()},
                "mixes": {
                    name: (first.model_copy(update=bounds), *others)
                    for name, (first, *others) in self.mixes.items()
                },
            }
        )

    def only(self, arms: Iterable[str]) -> Space:
        """The same space with fewer methods and mixes."""
        kept = set(arms)
        return self.model_copy(
            update={
                "methods": {name: own for name, own in self.methods.items() if name in kept},
                "mixes": {name: own for name, own in self.mixes.items() if name in kept},
            }
        )


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
        only: Methods to keep, and the mixes of these alone; empty keeps all of the space.

    Raises:
        UnknownNameError: No such space, method, option or key.
        SpecError: The file cannot be read, or none of `only` is in the space.
    """
    is_path = name.endswith((".yaml", ".yml")) or "/" in name
    if not is_path and name not in names():
        raise UnknownNameError("search space", name, names())
    path = Path(name) if is_path else folder() / f"{name}.yaml"
    source = str(path) if is_path else f"search space {name}"
    space = validate(Space, read_yaml(path), source=source)
    for method in only:
        known_methods[method]  # an unknown name is answered with the known ones
    _check(space, known_methods, source=source)
    held = {part for arm in space.arms for part, _ in space.parts(arm)}
    for method in only:
        if method not in held:
            listed = ", ".join(sorted(held))
            raise SpecError(f"The search space {name!r} has no method {method!r}; it holds {listed}.")
    return space.only(arm for arm in space.arms if not only or _methods_of(space, arm) <= set(only))


def _methods_of(space: Space, arm: str) -> set[str]:
    return {method for method, _ in space.parts(arm)}


def _check(space: Space, known: Mapping[str, Method], *, source: str) -> None:
    if not space.arms:
        raise SpecError(f"The {source} names no method and no mix; give one under methods or mixes.")
    for arm in space.mixes:
        if arm in known:
            raise SpecError(f"The {source} calls a mix {arm!r}, which is the name of a method; rename it.")
    for arm in space.arms:
        for name, own in space.parts(arm):
            _check_part(known[name], own, source=source)
            _check_ranks(known[name], own, source=source)
        _check_lead([own for _, own in space.parts(arm)], arm=arm, source=source)
        own_spectrum = [name for name, own in space.parts(arm) if "spectrum" in own.ranks_by]
        if own_spectrum and arm in space.mixes:
            raise SpecError(
                f"The mix {arm!r} has ranks_by spectrum at {own_spectrum[0]}; energies of different methods "
                "cannot be weighed against each other, so leave it out of mixes."
            )
        sharing = [name for name, _ in space.parts(arm) if known[name].shared]
        if len(sharing) > 1:
            raise SpecError(
                f"The mix {arm!r} has {' and '.join(sharing)}, which share one state among their sites; "
                "a plan takes one such method, once."
            )


def _check_part(method: Method, own: MethodSpace, *, source: str) -> None:
    groups = [role for group in ROLE_GROUPS.values() for role in group]
    roles = {"all", "dense", "norm", *ROLE_GROUPS, *groups}
    for role in (role for placement in own.placement for role in placement.split("+")):
        if role not in roles:
            raise UnknownNameError(f"role or role group ({source})", role, roles)
    for option, values in own.options.items():
        if option not in method.choices:
            raise UnknownNameError(f"option of {method.name} ({source})", option, method.choices)
        for value in values:
            if value not in method.choices[option]:
                known = [str(choice) for choice in method.choices[option]]
                raise UnknownNameError(f"{option} of {method.name} ({source})", str(value), known)


def _check_ranks(method: Method, own: MethodSpace, *, source: str) -> None:
    given = [name for name in ("min_rank", "size") if getattr(own, name)]
    if given and not method.ranked:
        raise SpecError(f"The {source} gives {given[0]} to {method.name}, which has no ranks; leave it out.")
    if own.size and (own.min_rank is not None or own.max_rank is not None):
        raise SpecError(
            f"The {source} gives {method.name} a size and a min_rank or max_rank; a size says both, keep one."
        )
    if own.min_rank is not None and own.max_rank is not None and own.min_rank > own.max_rank:
        raise SpecError(
            f"The {source} gives {method.name} a min_rank of {own.min_rank}, above its max_rank of "
            f"{own.max_rank}; lower it."
        )


def _check_lead(parts: Sequence[MethodSpace], *, arm: str, source: str) -> None:
    """What a first part says for all, and what the later ones take from it."""
    first, *others = parts
    if "lead" in first.layers_by:
        raise SpecError(
            f"The {source} has layers_by lead in the first part of {arm!r}; only later parts can."
        )
    for part in others:
        if "lead" in part.layers_by and (len(part.layers_by) > 1 or part.layer_share != (1.0, 1.0)):
            raise SpecError(
                f"The {source} has layers_by lead in {arm!r} beside another choice or a layer_share; "
                "it takes both from the first part, so leave them out."
            )
        if part.budget_share != (1.0, 1.0):
            raise SpecError(
                f"The {source} has a budget_share in a later part of {arm!r}; it is one for the whole "
                "plan, so give it to the first part."
            )


def servable(space: Space, servers: Sequence[str], methods: Mapping[str, Method]) -> Space:
    """The part of a space that some servers read, by an exact export of the trained adapter.

    Args:
        space: Any search space.
        servers: Some of `SERVERS`.
        methods: Every method there is.

    Raises:
        SpecError: Nothing of the space is read by all of them.
    """
    kept: dict[str, MethodSpace] = {}
    for name, own in space.methods.items():
        method = methods[name]
        options = {
            option: tuple(value for value in values if _is_served(method, servers, {option: value}))
            for option, values in own.options.items()
        }
        if _is_served(method, servers, {}) and all(options.values()):
            kept[name] = own.model_copy(update={"options": options})
    mixes = {
        name: parts
        for name, parts in space.mixes.items()
        if all(_all_served(methods[part.method], servers, part) for part in parts)
    }
    if not kept and not mixes:
        raise SpecError(
            f"Nothing of the search space is read by {', '.join(servers)}, which take plain LoRA alone; "
            "choose a space with LoRA, or leave --serve-on out and export a merged model."
        )
    return space.model_copy(update={"methods": kept, "mixes": mixes})


def _is_served(method: Method, servers: Sequence[str], options: Mapping[str, OptionValue]) -> bool:
    return set(servers) <= set(method.servers(options))


def _all_served(method: Method, servers: Sequence[str], own: MethodSpace) -> bool:
    return all(_is_served(method, servers, options) for options in _single_options(own))


def _single_options(own: MethodSpace) -> Iterator[dict[str, OptionValue]]:
    yield {}
    for option, values in own.options.items():
        yield from ({option: value} for value in values)
