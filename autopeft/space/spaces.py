"""A search space: what may be chosen for each method and each mix of methods; and a policy, a point of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from autopeft.records import Arm, OptionPairs, OptionValue

BASELINE_METHOD = "lora"  # what people write without a search
_MOST_EXPONENT = 16  # beyond it weights of sites overflow; chosen by hand


def _ascending(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= values[0] <= values[1] < math.inf:
        raise ValueError("be a range [low, high] with 0 <= low <= high, both finite")
    return values


def _low_exponents(values: tuple[float, float]) -> tuple[float, float]:
    if values[1] > _MOST_EXPONENT:
        raise ValueError(f"be at most {_MOST_EXPONENT}")
    return values


def _above_zero(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 < values[0] <= values[1] < math.inf:
        raise ValueError("be a range [low, high] with 0 < low <= high, both finite")
    return values


def _not_twice(values: tuple[Any, ...]) -> tuple[Any, ...]:
    repeated = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if repeated is not None:
        raise ValueError(f"have each value once, but {repeated!r} is there twice")
    return values


def _placements(values: tuple[str, ...]) -> tuple[str, ...]:
    """Each a set of roles, in any order."""
    sets = [frozenset(value.split("+")) for value in values]
    for place, value in enumerate(values):
        if len(sets[place]) < len(value.split("+")):
            raise ValueError(f"name each role once, unlike {value!r}")
        if "all" in sets[place] and value != "all":
            raise ValueError(f"have no role beside all, unlike {value!r}")
        if sets[place] in sets[:place]:
            raise ValueError(f"have each value once, but {value!r} is there twice")
    return values


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
Rates = Annotated[tuple[float, float], AfterValidator(_above_zero)]
Share = Annotated[float, Field(gt=0, le=1)]
ShareRange = Annotated[tuple[Share, Share], AfterValidator(_ascending)]
Choices = dict[str, Annotated[tuple[OptionValue, ...], Field(min_length=1), AfterValidator(_not_twice)]]
_MOST_RANK = 2**20  # far above the width of any model; chosen by hand
Rank = Annotated[int, Field(ge=1, le=_MOST_RANK)]


class MethodSpace(BaseModel):
    """The choices within one method; a field that is left out has one choice, None being the method's.

    `placement` is `all`, a role group (`attention`, `mlp`), or roles joined by + (`q+v`). A `layer_share`
    keeps the last or the best-scored layers, as `layers_by` says. Ranks are even (`uniform`) or follow the
    score to the power of the exponent (`score`; 0 gives even ranks); a method whose config holds one rank has
    even ones. `learning_rate` is the same range on every base model; without it, the method's range moves
    with the width of the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    placement: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_placements)] = ("all",)
    layer_share: ShareRange = (1.0, 1.0)
    layers_by: Annotated[
        tuple[Literal["last", "score"], ...], Field(min_length=1), AfterValidator(_not_twice)
    ] = ("last",)
    exponent: Annotated[Range, AfterValidator(_low_exponents)] = (0.0, 0.0)
    ranks_by: Annotated[
        tuple[Literal["uniform", "score"], ...], Field(min_length=1), AfterValidator(_not_twice)
    ] = ("score",)
    options: Choices = {}
    max_rank: Rank | None = None
    learning_rate: Rates | None = None


# Kinds of tasks, and the smaller budgets of `--sizes`.
Family = Literal["classification", "tagging", "language", "images", "small"]


class FirstPlan(BaseModel):
    """A plan that every search of a family of tasks tries first; `evidence` says why it is in the list.

    `rate` is the position of its learning rate in the method's range: 0 the lowest, 1 the highest. A
    `baseline` is what people write without a search.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    placement: str = "all"
    layer_share: Share = 1.0
    layers_by: Literal["last", "score"] = "last"
    options: dict[str, OptionValue] = {}
    rate: Annotated[float, Field(ge=0, le=1)]
    baseline: bool = False
    evidence: str = ""


class MixPart(MethodSpace):
    """One method of a mix. Its learning rate keeps its place in its own range: see `rate_factor`."""

    method: str


class Space(BaseModel):
    """A search space as its file says it; `first` lists the plans that a search of each family tries first.

    A mix is several methods in one plan, on disjoint sites and one budget: the first part takes its
    sites, each later part those of its sites that are left.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    about: str
    methods: dict[str, MethodSpace] = {}
    mixes: dict[str, Annotated[tuple[MixPart, ...], Field(min_length=2)]] = {}
    first: dict[Family, tuple[FirstPlan, ...]] = {}

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of methods and mixes, of which a policy has one."""
        return (*self.methods, *self.mixes)

    def parts(self, arm: str) -> tuple[tuple[str, MethodSpace], ...]:
        """Method and choices of each part of a method (one part) or a mix (several)."""
        if arm in self.methods:
            return ((arm, self.methods[arm]),)
        return tuple((part.method, part) for part in self.mixes[arm])

    def only(self, arms: Iterable[str]) -> Space:
        """The same space with fewer methods and mixes."""
        kept = set(arms)
        return self._with({arm: [part for _, part in self.parts(arm)] for arm in self.arms if arm in kept})

    def narrowed(self, narrow: Callable[[str, MethodSpace], MethodSpace | None]) -> Space:
        """The space with each part narrowed; None drops a method, or every mix that has such a part.

        `narrow` takes the name of a method and its choices, and returns choices of the same type.
        """
        narrowed = {arm: [narrow(method, part) for method, part in self.parts(arm)] for arm in self.arms}
        return self._with({arm: parts for arm, parts in narrowed.items() if None not in parts})

    def _with(self, parts: Mapping[str, Sequence[MethodSpace | None]]) -> Space:
        """The space with the methods and mixes of these names alone, each with these parts."""
        methods = {arm: parts[arm][0] for arm in self.methods if arm in parts}
        mixes = {arm: tuple(parts[arm]) for arm in self.mixes if arm in parts}
        return self.model_copy(update={"methods": methods, "mixes": mixes})


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One point of a search space, from which an allocation makes a plan.

    Its choices are those of `MethodSpace`. `exponent` counts only where `ranks_by` is score. `options` leaves
    defaults out. `learning_rate` is the peak rate of the first part; the others train at a multiple of it.
    `beside` holds the other parts of a mix: each takes those of its sites that are left, and all share one
    budget.
    """

    method: str
    placement: str = "all"
    layer_share: float = 1.0
    layers_by: str = "last"
    exponent: float = 0.0
    ranks_by: str = "score"
    options: OptionPairs = ()
    max_rank: int | None = None
    learning_rate: float
    beside: tuple[Policy, ...] = ()

    @property
    def arm(self) -> Arm:
        """Method × placement family, such as `lora/attention`, the parts of a mix joined by &."""
        families = []
        for part in (self, *self.beside):
            # The scale rule is left out: it is a tuned number of the method.
            shown = [(n, value) for n, value in part.options if n != "scale_rule" and value is not False]
            options = [name if value is True else str(value) for name, value in shown]
            families.append(f"{'+'.join([part.method, *options])}/{part.placement}")
        methods = tuple(part.method for part in (self, *self.beside))
        return Arm(kind="sampled", label=" & ".join(families), methods=methods)
