"""autopeft finds what to adapt under a budget: which modules, which PEFT method, which rank, at what gain."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from autopeft.types.version import VERSION

if TYPE_CHECKING:
    from autopeft.api import (
        Result,
        Score,
        Study,
        Trial,
        analyze,
        apply,
        load_plan,
        load_result,
        save,
        search,
        suggest,
        tune,
    )
    from autopeft.errors import AutopeftError
    from autopeft.types import Plan, PlanDocument, RunSpec, SearchResult

__version__ = VERSION

# bitsandbytes, which peft imports, warns there of an optional package that is missing.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__all__ = [
    "AutopeftError",
    "Plan",
    "PlanDocument",
    "Result",
    "RunSpec",
    "Score",
    "SearchResult",
    "Study",
    "Trial",
    "analyze",
    "apply",
    "load_plan",
    "load_result",
    "save",
    "search",
    "suggest",
    "tune",
]

# The module of each name but those of `api`, which is imported at the first use: torch, transformers and peft
# take seconds.
_MODULES = {
    **dict.fromkeys(("Plan", "PlanDocument", "RunSpec", "SearchResult"), "autopeft.types"),
    "AutopeftError": "autopeft.errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'autopeft' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, "autopeft.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
