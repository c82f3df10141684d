"""Regular expressions that users bring, tried in a process of their own before this one uses them.

`re` takes years for some short ones, such as `(.*)*Y`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from autopeft.adapters.reading import ConfigFile
from autopeft.errors import SpecError
from autopeft.records import shortened

# Seconds for all patterns of a config on all names of a model: of processor time, so that a busy machine
# refuses nothing, and on the clock, for systems that cannot limit the first. Both chosen by hand.
_CPU_SECONDS, _SECONDS = 2, 20
_REPEATS = re.compile(r"[*+{]")  # a pattern without repetition takes no longer than its length
_FIELDS = ("target_modules", "exclude_modules", "feedforward_modules", "layers_pattern")
_TRY = """
import json, re, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]),) * 2)
except ImportError:
    pass
patterns, texts = json.load(sys.stdin)
for pattern in patterns:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        continue
    for text in texts:
        for use in sys.argv[2:]:
            getattr(compiled, use)(text)
"""


def require_quick_patterns(file: ConfigFile, names: Sequence[str], *, path: Path) -> None:
    """Raise SpecError where a regular expression of a config takes seconds to match names of modules."""
    patterns = list(_patterns(file.content))
    if not are_quick(patterns, names, uses=("fullmatch", "match")):
        repeating = next(pattern for pattern in patterns if _REPEATS.search(pattern))
        shown = shortened(repeating, 60)
        raise SpecError(
            f"{path} has a regular expression that takes too long to match ({shown}); repeat nothing that is "
            "repeated inside, or list the modules by name."
        )


def are_quick(patterns: Sequence[str], texts: Sequence[str], *, uses: Sequence[str]) -> bool:
    """Whether regular expressions handle some texts within seconds, all of them together.

    Args:
        patterns: Those that are no regular expressions count as quick.
        texts: What each is tried on.
        uses: Methods of compiled expressions, such as `search`.
    """
    repeating = [pattern for pattern in patterns if _REPEATS.search(pattern)]
    if not repeating:
        return True
    command = [sys.executable, "-I", "-S", "-c", _TRY, str(_CPU_SECONDS), *uses]
    content = json.dumps([repeating, list(texts)])
    try:
        done = subprocess.run(command, input=content, text=True, capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _patterns(content: dict[str, Any]) -> Iterator[str]:
    """The regular expressions that `peft` makes of a config, each in the form in which it is matched."""
    for field in _FIELDS:
        values = content.get(field)
        yield from [values] if isinstance(values, str) else []
    layers = content.get("layers_pattern")
    for layer in layers if isinstance(layers, list) else [layers] if layers else []:
        yield rf".*\.[^.]*\.{layer}\.(\d+)\."
    for field, values in content.items():
        if field.endswith("_pattern") and isinstance(values, dict):
            yield from (rf"(.*\.)?({key})$" for key in values if _REPEATS.search(key))
