"""Functions of the user's, named `module:function`: code that runs only if the user named it, not a file."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autopeft.errors import SpecError, reason_of

_ALLOWED = set[str]()  # own functions that a flag, variable or argument of this process named


def is_own_metric(name: str | None) -> bool:
    """Whether a metric is a function of the user's, named `module:function`, such as `scores:rouge`."""
    return name is not None and ":" in name


def allow_own_function(name: str | None) -> None:
    """Allow `own_function` to import a user's function, since a flag, variable or argument named it."""
    if name is not None:
        _ALLOWED.add(name)


def own_function(name: str) -> Callable[..., Any]:
    """Import the function of `module:function` from the working directory or installed packages.

    Raises SpecError if only a file named it (see `allow_own_function`), or there is no such function.
    """
    if name not in _ALLOWED:
        raise SpecError(f"{name} is code, and only a file names it; pass --metric {name} if you trust it.")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    module, _, function = name.partition(":")
    try:
        loaded = getattr(importlib.import_module(module), function)
    except Exception as error:  # a module may raise anything
        cause = f"{type(error).__name__}: {reason_of(error)}"
        raise SpecError(
            f"--metric {name} cannot be imported ({cause}); write module:function, with the module in the "
            "working directory or installed."
        ) from error
    if not callable(loaded):
        raise SpecError(f"--metric {name} is {type(loaded).__name__}; it should be a function.")
    return loaded  # type: ignore[no-any-return]
