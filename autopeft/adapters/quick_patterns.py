"""Regular expressions that users bring, tried under a time limit before anything else uses them.

`re` takes years for some short ones, such as `(.*)*Y`. It is `re` that `peft` matches with, so that another
engine, quicker on the same expression, would prove nothing.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from autopeft.adapters.reading import ConfigFile
from autopeft.errors import SpecError
from autopeft.records import shortened

# Processor seconds for all patterns of a config on all names of a model, so that a busy machine refuses
# nothing; chosen by hand.
_CPU_SECONDS = 2.0
_REPEATS = re.compile(r"[*+{]")  # a pattern without repetition takes no longer than its length
_FIELDS = ("target_modules", "exclude_modules", "feedforward_modules", "layers_pattern")


def require_quick_patterns(file: ConfigFile, names: Sequence[str], *, path: Path) -> None:
    """Raise SpecError where a regular expression of a config takes seconds to match names of modules."""
    # Each in the form in which `peft` matches it.
    patterns = [values for field in _FIELDS if isinstance(values := file.content.get(field), str)]
    layers = file.content.get("layers_pattern")
    for layer in layers if isinstance(layers, list) else [layers] if layers else []:
        patterns.append(rf".*\.[^.]*\.{layer}\.(\d+)\.")
    for field, values in file.content.items():
        if field.endswith("_pattern") and isinstance(values, dict):
            patterns += [rf"(.*\.)?({key})$" for key in values if _REPEATS.search(key)]
    if not are_quick(patterns, names, uses=("fullmatch", "match")):
        repeating = next(pattern for pattern in patterns if _REPEATS.search(pattern))
        shown = shortened(repeating, 60)
        raise SpecError(
            f"{path} has a regular expression that takes too long to match ({shown}); repeat nothing that is "
            "repeated inside, or list the modules by name."
        )


def are_quick(patterns: Sequence[str], texts: Sequence[str], *, uses: Sequence[str]) -> bool:
    """Whether regular expressions handle some texts within two processor seconds, all of them together.

    A timer interrupts `re`, which looks for signals while it matches. Outside the main thread and on Windows
    there is no such timer, and every pattern counts as quick.

    Args:
        patterns: Those that are no regular expressions count as quick.
        texts: What each is tried on.
        uses: Methods of compiled expressions, such as `search`.
    """
    repeating = [pattern for pattern in patterns if _REPEATS.search(pattern)]
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return True

    def stop(*_: object) -> NoReturn:
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS)
    try:
        for pattern in repeating:
            try:
                compiled = re.compile(pattern)
            except (re.error, RecursionError, OverflowError):
                continue
            for text in texts:
                for use in uses:
                    getattr(compiled, use)(text)
    except TimeoutError:
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)
    return True
