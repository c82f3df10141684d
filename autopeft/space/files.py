"""The files of search spaces, read strictly and checked against the methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import get_args

from autopeft.errors import SpecError, UnknownNameError
from autopeft.extension import Method
from autopeft.records import ROLE_GROUPS, OptionValue, path_at_home
from autopeft.space.spaces import BASELINE_METHOD, Family, MethodSpace, Space
from autopeft.store import is_path_of_space, read_yaml, validate, yaml_text


def _folder() -> Path:
    """Inside an installed package, or beside it in a checkout."""
    packaged = Path(str(resources.files("autopeft"))) / "search_spaces"
    return packaged if packaged.is_dir() else packaged.parent.parent / "search_spaces"


def names() -> tuple[str, ...]:
    """The search spaces that come with autopeft."""
    return tuple(sorted(path.stem for path in _folder().glob("*.yaml")))


def text_of(name: str) -> str:
    """The YAML text of a search space, by its name or its file, to copy and change.

    Raises:
        UnknownNameError: No such space.
    """
    if is_path_of_space(name):
        return yaml_text(path_at_home(name))
    if name not in names():
        raise UnknownNameError("search space", name, names())
    return (_folder() / f"{name}.yaml").read_text(encoding="utf-8")


def load(name: str, *, known_methods: Mapping[str, Method], only: Sequence[str] = ()) -> Space:
    """A search space by its name or its file.

    Args:
        name: One of `names()`, or the path of a YAML file.
        known_methods: Every method there is; a lookup of another name raises `UnknownNameError`.
        only: Methods to keep, with the mixes of these alone; empty keeps all of the space.

    Raises:
        UnknownNameError: No such space, method, option or key.
        SpecError: The file cannot be read, or `only` leaves nothing of the space.
    """
    is_path = is_path_of_space(name)
    if not is_path and name not in names():
        raise UnknownNameError("search space", name, names())
    source = name if is_path else f"search space {name}"
    content = read_yaml(path_at_home(name) if is_path else _folder() / f"{name}.yaml")
    if isinstance(methods := content.get("methods"), dict):
        # A method with nothing below it has the defaults.
        filled = {method: {} if part is None else part for method, part in methods.items()}
        content = {**content, "methods": filled}
    if "first" not in content:  # a space without a list takes what its methods allow of the default one
        content = {**content, "first": read_yaml(_folder() / "default.yaml")["first"]}
    space = validate(Space, dict(content), source=source)
    _check(space, known_methods, source=source)

    def with_own_values(method: str, part: MethodSpace) -> MethodSpace:
        # The method's own values of options: YAML's 1 equals true, and 64.0 equals 64.
        choices = known_methods[method].choices
        own = {
            option: tuple(choices[option][choices[option].index(value)] for value in values)
            for option, values in part.options.items()
        }
        return part.model_copy(update={"options": own})

    space = space.narrowed(with_own_values)
    methods_of = {arm: {method for method, _ in space.parts(arm)} for arm in space.arms}
    in_space = set().union(*methods_of.values())
    for method in only:
        if known_methods[method].name not in in_space:
            listed = ", ".join(sorted(in_space))
            raise SpecError(
                f"The search space {name!r} has no method {method!r}; it holds {listed}. "
                "Choose from these, or another --space (`autopeft spaces` lists them)."
            )
    kept = [arm for arm in space.arms if not only or methods_of[arm] <= set(only)]
    if not kept:
        mixes = "; ".join(" + ".join(sorted(methods)) for methods in methods_of.values())
        raise SpecError(
            f"The search space {name!r} has no plan of {', '.join(only)} alone; it mixes {mixes}. "
            "Name all methods of a mix, or choose another --space."
        )
    return space.only(kept)


def _check(space: Space, known: Mapping[str, Method], *, source: str) -> None:
    if not space.arms:
        raise SpecError(f"The {source} names no method and no mix; give one under methods or mixes.")
    for arm in space.mixes:
        if not arm.strip() or not arm.isprintable() or arm == "head" or arm.startswith("baseline"):
            raise SpecError(
                f"The {source} calls a mix {arm!r}; a name is not empty, has no control characters, and is "
                "neither head nor one that begins with baseline. Rename it."
            )
        if arm in known:
            raise SpecError(f"The {source} calls a mix {arm!r}, which is the name of a method; rename it.")
    if missing := {*get_args(Family)} - {*space.first}:
        raise SpecError(f"The {source} has no list for {', '.join(sorted(missing))} under first; add it.")
    roles = {"all", "dense", "norm", *ROLE_GROUPS, *chain.from_iterable(ROLE_GROUPS.values())}

    def check_choices(
        method: str, placement: Sequence[str], options: Mapping[str, Sequence[OptionValue]]
    ) -> None:
        for role in "+".join(placement).split("+"):
            if role not in roles:
                raise UnknownNameError(f"role or role group ({source})", role, roles)
        choices, of_method = known[method].choices, f"of {known[method].name} ({source})"
        for option, values in options.items():
            if option not in choices:
                raise UnknownNameError(f"option {of_method}", option, choices)
            for value in values:
                if value not in choices[option]:
                    raise UnknownNameError(f"{option} {of_method}", str(value), map(str, choices[option]))

    for entry in chain.from_iterable(space.first.values()):
        check_choices(entry.method, [entry.placement], {name: [v] for name, v in entry.options.items()})
        if entry.baseline and entry.method != BASELINE_METHOD:
            raise SpecError(f"The {source} calls {entry.method} a baseline; only {BASELINE_METHOD} is one.")
    for arm in space.arms:
        for name, part in space.parts(arm):
            check_choices(name, part.placement, part.options)
            if part.max_rank is not None and not known[name].ranked:
                raise SpecError(f"The {source} gives max_rank to {name}, which has no ranks; leave it out.")
        parts = space.parts(arm)
        if any(part.learning_rate is not None for _, part in parts[1:]):
            raise SpecError(
                f"The {source} has a learning_rate in a later part of {arm!r}; each later part trains at a "
                "multiple of the first part's rate, so give it to the first part."
            )
        shared = [name for name, _ in parts if known[name].shared]
        if len(shared) > 1:
            raise SpecError(
                f"The mix {arm!r} has {' and '.join(shared)}, which share one state among their sites; "
                "a plan takes one such method, once."
            )
