"""The installed plug-ins: files of a folder of autopeft, and entry points of other packages."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from typing import Any, TypeVar

from autopeft.errors import SpecError, UnknownNameError, reason_of
from autopeft.plugins.method import Method, missing_in_peft
from autopeft.plugins.score import Score
from autopeft.plugins.task import Metric, Task

Plugin = TypeVar("Plugin")
Changed = TypeVar("Changed")

# What plug-ins of other packages have to meet.
PROTOCOLS: Mapping[str, type] = {
    "autopeft.methods": Method,
    "autopeft.tasks": Task,
    "autopeft.metrics": Metric,
    "autopeft.sensitivity": Score,
}

log = logging.getLogger(__name__)


class Catalogue(dict[str, Plugin]):
    """Plug-ins by name, names ascending; an unknown name raises an error with the names and the nearest one.

    `kind` is the noun of the error. `broken` maps the name of each plug-in that cannot be used to a sentence
    with the cause, which it raises.
    """

    def __init__(
        self, kind: str, plugins: Mapping[str, Plugin], broken: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(sorted(plugins.items()))
        self.kind, self.broken = kind, dict(broken or {})

    def __missing__(self, name: str) -> Plugin:
        if name in self.broken:
            raise SpecError(self.broken[name])
        raise UnknownNameError(self.kind, name, self, hint=hint_for(name, self))

    def changed(self, change: Callable[[Plugin], Changed]) -> Catalogue[Changed]:
        """Apply `change` to each plug-in; names and broken plug-ins stay."""
        changed = {name: change(plugin) for name, plugin in self.items()}
        return Catalogue(self.kind, changed, self.broken)


def hint_for(name: str, plugins: Mapping[str, Any]) -> str:
    """Explain a method name that is an option (dora), a value of one (rslora), or qlora; else return ""."""
    lower = name.casefold()
    for method, plugin in plugins.items():
        if lower == f"q{method}" and hasattr(plugin, "choices"):
            return f"For {name!r} use {method} with --quantize 4bit."
        for option, values in getattr(plugin, "choices", {}).items():
            if lower == option or (lower in values and lower != "default"):
                what = "an option" if lower == option else f"a value of {option}, an option"
                return f"{name!r} is {what} of {method}; see `autopeft info methods {method}`."
    return ""


@cache
def discover(package: str) -> Catalogue[Any]:
    """Find every plug-in in a folder of autopeft, and those that other packages publish as entry points.

    `package` is the dotted name of the folder, such as `autopeft.methods`, and the group of the entry points.
    Sub-folders, and files whose name starts with an underscore, hold no plug-ins. An entry point that cannot
    be loaded or does not meet its protocol is logged and goes to `broken`: only using its name raises. So
    does a method that the installed `peft` does not have. Raises SpecError for two plug-ins of one name.
    """
    folder = importlib.import_module(package)
    kind = package.rpartition(".")[2].removesuffix("s").replace("sensitivity", "score")
    broken: dict[str, str] = {}
    found: list[tuple[Any, str]] = []  # with its origin
    files = pkgutil.iter_modules(getattr(folder, "__path__", ()))
    names = [f"{package}.{file.name}" for file in files if not file.ispkg and file.name[0] != "_"]
    for name in names or [package]:  # metrics are one file
        module = importlib.import_module(name)
        found += [(plugin, name) for plugin in getattr(module, "PLUGINS", None) or [module.PLUGIN]]
    for entry in metadata.entry_points(group=package):
        try:
            found.append((_load(entry, kind, PROTOCOLS.get(package)), entry.value))
        except SpecError as error:
            broken[entry.name] = str(error)
            log.warning("%s The %s is left out.", error, kind)
    plugins: dict[str, tuple[Any, str]] = {}
    for plugin, origin in found:
        if missing := missing_in_peft(getattr(plugin, "label", ""), getattr(plugin, "since_peft", "")):
            broken[plugin.name] = missing
        elif plugin.name in plugins:
            raise SpecError(
                f"{plugins[plugin.name][1]} and {origin} both have a {kind} named {plugin.name!r}; rename "
                "one or uninstall its package."
            )
        else:
            plugins[plugin.name] = plugin, origin
    return Catalogue(kind, {name: plugin for name, (plugin, _) in plugins.items()}, broken)


def _load(entry: metadata.EntryPoint, kind: str, protocol: type | None) -> Any:
    """Load the plug-in of an entry point; raise SpecError if that fails or it does not meet its protocol."""
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "another package"
    subject = f"The {kind} {entry.name!r} of {package} ({entry.value})"
    try:
        plugin = entry.load()
    except Exception as error:  # a package may raise anything, and other plug-ins can be used
        cause = f"{type(error).__name__}: {reason_of(error)}"
        raise SpecError(f"{subject} cannot be loaded ({cause}). Update or uninstall that package.") from error
    bases = protocol.__mro__ if protocol is not None else ()
    members = {name for base in bases for name in (*inspect.get_annotations(base), *vars(base))}
    if missing := sorted(name for name in members if name[0] != "_" and not hasattr(plugin, name)):
        raise SpecError(f"{subject} has no {', '.join(missing)}. Update or uninstall that package.")
    return plugin
