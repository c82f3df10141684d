"""The parts that there are: files of a folder, and entry points of other packages."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import metadata
from typing import Any, Generic, TypeVar

from autopeft.errors import SpecError, UnknownNameError

Part = TypeVar("Part")


class Catalogue(Mapping[str, Part], Generic[Part]):
    """Parts by name, names ascending; an unknown name is answered with the known ones and the nearest."""

    def __init__(self, kind: str, parts: Mapping[str, Part]) -> None:
        """Hold `parts`; `kind` is the noun used in the error."""
        self._kind = kind
        self._parts = dict(sorted(parts.items()))

    def __getitem__(self, name: str) -> Part:
        if name not in self._parts:
            raise UnknownNameError(self._kind, name, self._parts, hint=hint_for(name, self._parts))
        return self._parts[name]

    def changed(self, change: Callable[[Part], Part]) -> Catalogue[Part]:
        """The same names with each part changed."""
        return Catalogue(self._kind, {name: change(part) for name, part in self._parts.items()})

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def hint_for(name: str, parts: Mapping[str, Any]) -> str:
    """A sentence where an unknown name is an option of a part, or of its option a value; else empty.

    `parts` are objects or mappings; those without `choices` have no options. A q before the name of such a
    part stands for a quantised base model.
    """
    wanted = name.casefold()
    for part_name, part in parts.items():
        choices = part.get("choices") if isinstance(part, Mapping) else getattr(part, "choices", None)
        if choices is None:
            continue
        see = f"see `autopeft methods {part_name}`."
        if wanted == f"q{part_name}":
            return f"For {name!r} take {part_name} with --quantize 4bit."
        for option, values in choices.items():
            if wanted == option:
                return f"{name!r} is an option of {part_name}; {see}"
            if wanted in values and wanted != "default":
                return f"{name!r} is a value of {option}, an option of {part_name}; {see}"
    return ""


@cache
def discover(package: str) -> Catalogue[Any]:
    """Every part of a folder of autopeft, and those that other packages publish as entry points.

    Args:
        package: Dotted name of the folder, such as `autopeft.methods`; also the group of the entry points.
            Sub-folders, and files whose name starts with an underscore, hold no parts.

    Raises:
        SpecError: Two parts have the same name.
    """
    folder = importlib.import_module(package)
    files = sorted(file.name for file in pkgutil.iter_modules(folder.__path__) if not file.ispkg)
    modules = [f"{package}.{name}" for name in files if name[0] != "_"]
    parts = [(importlib.import_module(module).PART, module) for module in modules]
    parts += [(entry.load(), entry.value) for entry in metadata.entry_points(group=package)]
    kind = package.rpartition(".")[2].removesuffix("s").replace("sensitivity", "score")
    by_name: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for part, origin in parts:
        if part.name in by_name:
            raise SpecError(
                f"The {kind} of {origin} has the name {part.name!r}, which the {kind} of "
                f"{origins[part.name]} has already; give it another name or uninstall its package."
            )
        by_name[part.name], origins[part.name] = part, origin
    return Catalogue(kind, by_name)
