"""Regular expressions that users bring, tried under a time limit before anything else uses them.

`re` takes years for some short ones, such as `(.*)*Y`. It is `re` that `peft` matches with, so that another
engine, quicker on the same expression, would prove nothing.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

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
    patterns = list(_patterns(file.content))
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
