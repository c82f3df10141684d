"""A search space: its YAML file, the choices for each method and mix, and a policy, one point of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from autopeft.errors import SpecError, UnknownNameError
from autopeft.plugins import MIXES_SINCE_PEFT, Method, missing_in_peft
from autopeft.store import is_path_of_space, read_yaml, validate
from autopeft.types import ROLE_GROUPS, Arm, OptionPairs, OptionValue, path_at_home

BASELINE_METHOD = "lora"  # what people write without a search
SERVERS = ("vllm", "sglang", "llama.cpp")

log = logging.getLogger(__name__)


def _refuse_descending(values: tuple[float, float]) -> tuple[float, float]:
    if not values[0] <= values[1]:
        raise ValueError("be a range [low, high] with low <= high")
    return values


Share = Annotated[float, Field(gt=0, le=1)]
Position = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rank = Annotated[int, Field(ge=1)]
Selection = Literal["last_layers", "best_layers", "best_modules"]
Choices = dict[str, Annotated[tuple[OptionValue, ...], Field(min_length=1)]]


class MethodSpace(BaseModel):
    """The choices within one method; a field that is left out has one choice, of which None is the method's.

    `placement` is `all`, a role group (`attention`, `mlp`), or roles joined by + (`q+v`). `select` says what
    a `layer_share` keeps of it: the last layers, those of the highest score, or single target modules of the
    highest score per parameter in whatever layer. `learning_rate` is the same range on every base model;
    without it, the method's range moves with the width of the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    placement: Annotated[tuple[str, ...], Field(min_length=1)] = ("all",)
    layer_share: Annotated[tuple[Share, Share], AfterValidator(_refuse_descending)] = (1.0, 1.0)
    select: Annotated[tuple[Selection, ...], Field(min_length=1)] = ("last_layers",)
    options: Choices = {}
    max_rank: Rank | None = None
    learning_rate: Annotated[tuple[Rate, Rate], AfterValidator(_refuse_descending)] | None = None


# Kinds of tasks, and the smaller budgets of `--sizes`.
Family = Literal["classification", "tagging", "language", "images", "small"]


class ListedPlan(BaseModel):
    """A plan that every search of a family of tasks enqueues first; `evidence` says why it is in the list.

    `rate` is the position of its learning rate in the method's range: 0 the lowest, 1 the highest. If the
    budget covers only some layers, `rate_in_some_layers` is used instead.
    A `baseline` is what people write without a search.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    placement: str = "all"
    layer_share: Share = 1.0
    select: Selection = "last_layers"
    options: dict[str, OptionValue] = {}
    rate: Position
    rate_in_some_layers: Position | None = None
    baseline: bool = False
    evidence: str = ""


class MixPart(MethodSpace):
    """One method of a mix. Its learning rate keeps its place in its own range: see `rate_factor`."""

    method: str


class Space(BaseModel):
    """A search space as its file says it; `listed` has the plans that searches of each family enqueue first.

    A mix is several methods in one plan, on disjoint target modules and one budget: a target module that two
    parts select belongs to the earlier part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    about: str
    methods: dict[str, MethodSpace] = {}
    mixes: dict[str, Annotated[tuple[MixPart, ...], Field(min_length=2)]] = {}
    listed: dict[Family, tuple[ListedPlan, ...]] = {}

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of methods and mixes; a policy belongs to one of them."""
        return (*self.methods, *self.mixes)

    def parts(self, arm: str) -> tuple[tuple[str, MethodSpace], ...]:
        """Return name of the method and choices of each part: a method has one part, a mix several."""
        if arm in self.methods:
            return ((arm, self.methods[arm]),)
        return tuple((part.method, part) for part in self.mixes[arm])

    def only(self, arms: Iterable[str]) -> Space:
        """Return the space with these methods and mixes only."""
        kept = set(arms)
        return self._with({arm: [part for _, part in self.parts(arm)] for arm in self.arms if arm in kept})

    def narrowed(self, narrow: Callable[[str, MethodSpace], MethodSpace | None]) -> Space:
        """Return the space with each part narrowed.

        `narrow` takes the name of a method and its choices, and returns choices of the same type, or None to
        drop the method, or every mix with that part.
        """
        narrowed = {arm: [narrow(method, part) for method, part in self.parts(arm)] for arm in self.arms}
        return self._with({arm: parts for arm, parts in narrowed.items() if None not in parts})

    def _with(self, parts: Mapping[str, Sequence[MethodSpace | None]]) -> Space:
        methods = {arm: parts[arm][0] for arm in self.methods if arm in parts}
        mixes = {arm: tuple(parts[arm]) for arm in self.mixes if arm in parts}
        return self.model_copy(update={"methods": methods, "mixes": mixes})


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One point of a search space, from which an allocation makes a plan.

    Its choices are those of `MethodSpace`. `options` leaves defaults out. `learning_rate` is the peak rate of
    the first part of a mix; its `other_parts` train at a multiple of it. Each of these takes the target
    modules that no earlier part has; all share one budget. `choices` are values of the user's own trainer;
    one that is left out has its first value.
    """

    method: str
    placement: str = "all"
    layer_share: float = 1.0
    select: str = "last_layers"
    options: OptionPairs = ()
    max_rank: int | None = None
    learning_rate: float
    other_parts: tuple[Policy, ...] = ()
    choices: OptionPairs = ()

    @property
    def arm(self) -> Arm:
        """Method and placement, such as `lora/attention`, the parts of a mix joined by &."""
        families = []
        for part in (self, *self.other_parts):
            # The scale rule is left out: it is a tuned number of the method.
            shown = [(n, value) for n, value in part.options if n != "scale_rule" and value is not False]
            options = [name if value is True else str(value) for name, value in shown]
            families.append(f"{'+'.join([part.method, *options])}/{part.placement}")
        return Arm(kind="sampled", label=" & ".join(families))


def _folder() -> Path:
    """The folder of YAML files inside an installed package, or next to it in a checkout."""
    packaged = Path(str(resources.files("autopeft"))) / "search_spaces"
    return packaged if packaged.is_dir() else packaged.parent.parent / "search_spaces"


def names() -> tuple[str, ...]:
    """The search spaces that come with autopeft."""
    return tuple(sorted(path.stem for path in _folder().glob("*.yaml")))


def _file_of(name: str) -> Path:
    """Return the file of a search space, by its name or its path; UnknownNameError for another name."""
    if is_path_of_space(name):
        return path_at_home(name)
    if name not in names():
        raise UnknownNameError("search space", name, names())
    return _folder() / f"{name}.yaml"


def text_of(name: str) -> str:
    """Read the YAML text of a search space, by its name or its file, to copy and change."""
    return _file_of(name).read_text(encoding="utf-8")


def load(name: str, *, known_methods: Mapping[str, Method], only: Sequence[str] = ()) -> Space:
    """Read a search space by its name or its file; `only` keeps some methods, with the mixes of these alone.

    Families of tasks that the file does not list have the plans of the default space. Raises SpecError for a
    file that cannot be read, for unknown names in it, and if `only` leaves nothing of the space.
    """
    source = name if is_path_of_space(name) else f"search space {name}"
    content = read_yaml(_file_of(name))
    if isinstance(methods := content.get("methods"), dict):
        # A method with nothing below it has the defaults.
        content["methods"] = {method: {} if part is None else part for method, part in methods.items()}
    default = validate(Space, read_yaml(_file_of("default")), source="search space default")
    space = validate(Space, content, source=source)
    space = space.model_copy(update={"listed": {**default.listed, **space.listed}})
    space = _without_missing(space, known_methods)
    _check(space, known_methods, source=source)
    if not only:
        return space
    kept = space.narrowed(lambda method, part: part if method in only else None)
    held = {method for arm in kept.arms for method, _ in kept.parts(arm)}
    if missing := [name for name in only if known_methods[name].name not in held]:
        raise SpecError(
            f"The search space {name!r} has no {missing[0]} by itself; it has {', '.join(space.arms)}. "
            "Choose from these, or another --space (`autopeft info spaces` lists them)."
        )
    return kept


def _without_missing(space: Space, methods: Mapping[str, Method]) -> Space:
    """Leave out what the installed `peft` does not have, and log it; SpecError if nothing is left."""
    missing: Mapping[str, str] = getattr(methods, "broken", {})
    no_mixes = missing_in_peft("A mix of methods", MIXES_SINCE_PEFT) if space.mixes else ""
    kept = space.narrowed(lambda method, part: None if method in missing else part)
    lists = {
        family: tuple(entry for entry in entries if entry.method not in missing)
        for family, entries in space.listed.items()
    }
    kept = kept.model_copy(update={"listed": lists, "mixes": {} if no_mixes else kept.mixes})
    listed = {entry.method for entries in space.listed.values() for entry in entries}
    sentences = [missing[method] for method in sorted({*space.methods, *listed} & missing.keys())]
    if no_mixes:
        sentences.append(no_mixes)
    if sentences:
        log.warning("%s", " ".join(sentences))
    if space.arms and not kept.arms:
        raise SpecError(" ".join(sentences))
    return kept


def _check(space: Space, methods: Mapping[str, Method], *, source: str) -> None:
    """Raise SpecError for an empty space, and for methods, options and roles that do not exist."""
    if not space.arms:
        raise SpecError(f"The {source} names no method and no mix; give one under methods or mixes.")
    roles = {"dense", "norm", *ROLE_GROUPS, *chain.from_iterable(ROLE_GROUPS.values())}

    def check_choices(
        method: str, placement: Sequence[str], options: Mapping[str, Sequence[OptionValue]]
    ) -> None:
        for role in chain.from_iterable(place.split("+") for place in placement if place != "all"):
            if role not in roles:
                raise UnknownNameError(f"role or role group ({source})", role, roles)
        choices, of_method = methods[method].choices, f"of {methods[method].name} ({source})"
        for option, values in options.items():
            if option not in choices:
                raise UnknownNameError(f"option {of_method}", option, choices)
            for value in values:
                if value not in choices[option]:
                    raise UnknownNameError(f"{option} {of_method}", str(value), map(str, choices[option]))

    for entry in chain.from_iterable(space.listed.values()):
        check_choices(entry.method, [entry.placement], {name: [v] for name, v in entry.options.items()})
    for arm in space.arms:
        for name, part in space.parts(arm):
            check_choices(name, part.placement, part.options)


def servable(space: Space, servers: Sequence[str], methods: Mapping[str, Method]) -> Space:
    """Narrow a space to what each of some servers reads, by an exact export of the trained adapter.

    A method loses the options that one of the servers does not read. Raises SpecError if nothing is left.
    """

    def narrow(name: str, part: MethodSpace) -> MethodSpace | None:
        def is_served(options: Mapping[str, OptionValue]) -> bool:
            return set(servers) <= set(methods[name].servers(options))

        options = {
            option: tuple(value for value in values if is_served({option: value}))
            for option, values in part.options.items()
        }
        is_left = is_served({}) and all(options.values())
        return part.model_copy(update={"options": options}) if is_left else None

    narrowed = space.narrowed(narrow)
    if not narrowed.arms:
        raise SpecError(
            f"Nothing of the search space is read by {', '.join(servers)}, which take plain LoRA alone; "
            "choose a space with LoRA, or leave --serve-on out and export a merged model."
        )
    return narrowed
