"""The errors that autopeft raises, drawn as a tree.

AutopeftError                 exit 1   any fault that autopeft foresees
├── SpecError                 exit 2   settings or files that cannot be read or do not fit together
│   ├── UnknownNameError      exit 2   no plug-in, setting or column has this name
│   ├── DataError             exit 2   the dataset cannot be used as it is
│   ├── ModelError            exit 2   the base model cannot be loaded or is not the expected one
│   └── RunDirError           exit 2   the run directory is taken, locked or incomplete
├── TargetError               exit 3   nothing to adapt, or an adapter that does not fit its target module
├── BudgetError               exit 4   no plan fits the budget
├── TrainingError             exit 1   a training run failed that the command needs
├── WorkerLostError           exit 1   the process that ran a measurement ended
└── HubError                  exit 1   the hub cannot be reached, or refuses an upload

A message says what was wrong, the value seen, what is allowed, what to do. `code` is the word for the exit
code in the JSON of the command line: failed (1), usage (2), nothing_feasible (3), budget_impossible (4).
"""

from __future__ import annotations

import contextlib
import difflib
import errno
from collections.abc import Callable, Iterable, Iterator

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # error numbers of a full disk or quota
_MOST_LISTED, _NEAREST = 25, 8  # known names in an error: all of up to 25, else the nearest 8; heuristic


class AutopeftError(Exception):
    """Base of every error that autopeft raises on purpose."""

    exit_code = 1
    code = "failed"


class SpecError(AutopeftError):
    """Settings or files that cannot be read or do not fit together."""

    exit_code = 2
    code = "usage"


class UnknownNameError(SpecError):
    """A name that does not exist; the message lists known names and suggests the nearest."""

    def __init__(self, kind: str, name: str, existing: Iterable[str], *, hint: str = "") -> None:
        """Make the message; `kind` is a noun, such as "method", `hint` a sentence after the known names."""
        names = sorted(existing)
        close = nearest(name, names)
        hint = f" {hint or (f'Did you mean {close!r}?' if close else '')}".rstrip()
        listed = ", ".join(names) if names else "none"
        if len(names) > _MOST_LISTED:
            near = difflib.get_close_matches(name, names, n=_NEAREST, cutoff=0.0)
            listed = f"{', '.join(near)} and {len(names) - len(near)} more"
        super().__init__(f"There is no {kind} named {name!r}; known: {listed}.{hint}")


class DataError(SpecError):
    """The dataset cannot be used as it is."""


class ModelError(SpecError):
    """The base model cannot be loaded, or is not the expected one."""


class RunDirError(SpecError):
    """The run directory is taken, locked by another process, or incomplete."""


class TargetError(AutopeftError):
    """Nothing to adapt, or an adapter that does not fit its target module."""

    exit_code = 3
    code = "nothing_feasible"


class BudgetError(AutopeftError):
    """No plan fits the budget; the message names the smallest plan."""

    exit_code = 4
    code = "budget_impossible"


class TrainingError(AutopeftError):
    """A training run failed that the command needs."""


class WorkerLostError(AutopeftError):
    """The process that ran a measurement ended."""


class HubError(AutopeftError):
    """The hub cannot be reached, or refuses an upload."""


def nearest(name: str, existing: Iterable[str]) -> str | None:
    """Return the known name that is most similar to a name; None if none is similar. Case does not matter.

    Swapped letters and a missing end come first: `lroa` is nearest to lora before loha or road, and `a100` to
    a100-40gb before a10. If no name is similar, the first that contains the name counts.

    Example:
        >>> nearest("lroa", ["loha", "lora", "road"]), nearest("f1", ["pearson", "macro-f1"])
        ('lora', 'macro-f1')
        >>> nearest("xyz", ["lora"])
    """
    folded, low = {each.casefold(): each for each in existing}, name.casefold()
    close = difflib.get_close_matches(low, folded, n=5, cutoff=0.5)
    near = sorted(close, key=lambda each: (sorted(each) != sorted(low), not each.startswith(low)))
    near = near or [each for each in folded if len(name) > 1 and low in each]
    return folded[near[0]] if near else None


def first_line_of(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if the message is blank."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def reason_of(error: BaseException) -> str:
    """Return the first line of an error's message without its full stop, for use within a sentence."""
    return first_line_of(error).rstrip().rstrip(".")


@contextlib.contextmanager
def foreign_file(sentence: Callable[[Exception], AutopeftError]) -> Iterator[None]:
    """Convert whatever a library raises while it reads or writes a file to the error that `sentence` returns.

    Libraries in Rust raise classes of their own, and damaged files lead to errors of any class. What autopeft
    itself raises inside the context stays as it is.
    """
    try:
        yield
    except AutopeftError:
        raise
    except Exception as error:
        raise sentence(error) from error
