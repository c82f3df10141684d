"""The parts that there are: files of a folder, and entry points of other packages."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

from autopeft.errors import SpecError, UnknownNameError, reason_of
from autopeft.plugins.method import Method, missing_in_peft
from autopeft.plugins.score import Score
from autopeft.plugins.task import Metric, Task

Part = TypeVar("Part")
Changed = TypeVar("Changed")

# What parts of other packages have to meet.
PROTOCOLS: Mapping[str, type] = {
    "autopeft.methods": Method,
    "autopeft.tasks": Task,
    "autopeft.metrics": Metric,
    "autopeft.sensitivity": Score,
}

_ALLOWED = set[str]()  # own functions that a user named in this process, not only in a file
_CLOSED = ("autopeft.exports",)  # folders that take no parts of other packages

log = logging.getLogger(__name__)


class Catalogue(Mapping[str, Part], Generic[Part]):
    """Parts by name, names ascending; an unknown name raises an error with the names and the nearest one.

    `broken` maps the name of each part that cannot be used to a sentence with the cause, which it raises.
    """

    def __init__(self, kind: str, parts: Mapping[str, Part], broken: Mapping[str, str] | None = None) -> None:
        """Hold `parts`; `kind` is the noun used in the error."""
        self._kind = kind
        self._parts = dict(sorted(parts.items()))
        self.broken = dict(broken or {})

    def __getitem__(self, name: str) -> Part:
        if name not in self._parts:
            if name in self.broken:
                raise SpecError(self.broken[name])
            raise UnknownNameError(self._kind, name, self._parts, hint=hint_for(name, self._parts))
        return self._parts[name]

    def changed(self, change: Callable[[Part], Changed]) -> Catalogue[Changed]:
        """Apply `change` to each part; names and broken parts stay."""
        return Catalogue(self._kind, {name: change(part) for name, part in self._parts.items()}, self.broken)

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def hint_for(name: str, parts: Mapping[str, Any]) -> str:
    """Say which part has an unknown name as an option, or as a value of an option; empty if none has.

    `parts` are objects or mappings; a part without `choices` has no options. A q before a part's name (qlora)
    stands for a quantized base model.
    """
    lower = name.casefold()
    for part_name, part in parts.items():
        choices = part.get("choices") if isinstance(part, Mapping) else getattr(part, "choices", None)
        if choices is None:
            continue
        see = f"see `autopeft info methods {part_name}`."
        if lower == f"q{part_name}":
            return f"For {name!r} take {part_name} with --quantize 4bit."
        for option, values in choices.items():
            if lower == option:
                return f"{name!r} is an option of {part_name}; {see}"
            if lower in values and lower != "default":
                return f"{name!r} is a value of {option}, an option of {part_name}; {see}"
    return ""


def is_own_metric(name: str | None) -> bool:
    """Whether a metric is a function of the user's, named `module:function`, such as `scores:rouge`."""
    return name is not None and ":" in name


def allow_own_function(name: str | None) -> None:
    """Allow `own_function` to import a user's function, since a flag, variable or argument named it."""
    if name is not None:
        _ALLOWED.add(name)


def own_function(name: str, *, flag: str = "--metric") -> Callable[..., Any]:
    """Import the function of `module:function`, the value of a flag; the working directory has modules too.

    Raises:
        SpecError: Only a file named it (see `allow_own_function`), or there is no such function.
    """
    if name not in _ALLOWED:
        raise SpecError(f"{name} is code, and only a file names it; pass {flag} {name} if you trust it.")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    module, _, function = name.partition(":")
    try:
        loaded = getattr(importlib.import_module(module), function)
    except Exception as error:  # a module may raise anything
        cause = f"{type(error).__name__}: {reason_of(error)}"
        raise SpecError(
            f"{flag} {name} cannot be imported ({cause}); write module:function, with the module in the "
            "working directory or installed."
        ) from error
    if not callable(loaded):
        raise SpecError(f"{flag} {name} is {type(loaded).__name__}; it should be a function.")
    return loaded  # type: ignore[no-any-return]


@cache
def discover(package: str) -> Catalogue[Any]:
    """Find every part in a folder of autopeft, and the parts that other packages publish as entry points.

    `package` is the dotted name of the folder, such as `autopeft.methods`, and the group of the entry points.
    Sub-folders, and files whose name starts with an underscore, hold no parts. An entry point that cannot be
    loaded, or whose part lacks a member of its protocol, is warned of and goes to `broken`: only asking for
    it by name raises. So does a method that the installed `peft` does not have.

    Raises:
        SpecError: Two parts have the same name.
    """
    folder = importlib.import_module(package)
    files = pkgutil.iter_modules(getattr(folder, "__path__", ()))  # a package in one file has its parts there
    names = sorted(file.name for file in files if not file.ispkg and file.name[0] != "_")
    parts: list[tuple[Any, str]] = []
    for name in [f"{package}.{name}" for name in names] or [package]:
        module = importlib.import_module(name)
        parts += [
            (part, name) for part in (module.PLUGINS if hasattr(module, "PLUGINS") else (module.PLUGIN,))
        ]
    kind = package.rpartition(".")[2].removesuffix("s").replace("sensitivity", "score")
    broken: dict[str, str] = {}
    for entry in () if package in _CLOSED else metadata.entry_points(group=package):
        try:
            parts.append((_load(entry, kind, PROTOCOLS.get(package)), entry.value))
        except SpecError as error:
            broken[entry.name] = str(error)
            log.warning("%s The %s is left out.", error, kind)
    by_name: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for part, origin in parts:
        if missing := missing_in_peft(getattr(part, "label", ""), getattr(part, "since_peft", "")):
            broken[part.name] = missing
            continue
        if part.name in by_name:
            raise SpecError(
                f"The {kind} of {origin} has the name {part.name!r}, which the {kind} of "
                f"{origins[part.name]} has already; give it another name or uninstall its package."
            )
        by_name[part.name], origins[part.name] = part, origin
    return Catalogue(kind, by_name, broken)


def _load(entry: metadata.EntryPoint, kind: str, protocol: type | None) -> Any:
    """Load the part of an entry point; raises SpecError if it lacks a member of its protocol."""
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "another package"
    subject = f"The {kind} {entry.name!r} of {package} ({entry.value})"
    remedy = f"Update or uninstall {entry.dist.name if entry.dist else package}."
    try:
        part = entry.load()
    except Exception as error:  # a package may raise anything, and the parts of others can be used
        cause = f"{type(error).__name__}: {reason_of(error)}"
        raise SpecError(f"{subject} cannot be loaded ({cause}). {remedy}") from error
    if isinstance(part, type):
        raise SpecError(f"{subject} is a class, and should be an object of it. {remedy}")
    names = {"name"} if protocol is None else {*protocol.__annotations__, *vars(protocol)}
    missing = sorted(name for name in names if name[0] != "_" and not hasattr(part, name))
    if missing:
        of = "" if protocol is None else f" of extension.{protocol.__name__}"
        raise SpecError(f"{subject} lacks {', '.join(missing)}{of}. {remedy}")
    return part
