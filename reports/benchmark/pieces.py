"""Searches with one piece taken out, to see in a replay what the piece is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

from table import TableError

from autopeft import engine

# Modules, some of which the package hides behind functions of their names.
choose, promote, queue = (import_module(f"autopeft.engine.{name}") for name in ("choose", "promote", "queue"))


def _same(_problem: Any, _log: Any, last: Any, chosen: Any = None) -> Any:
    return last if chosen is None else chosen


# Each piece with what stands for it: (where, name, value) as `patch.object` takes them.
PIECES: Mapping[str, Sequence[tuple[Any, str, Any]]] = {
    "defaults": [(queue, "_usual", lambda problem: iter(()))],
    "long last rung": [(engine, "stretched", lambda schedule, **limits: schedule)],
    "lower rates": [(engine, "retune", _same)],
    "full runs": [(engine, "deepened", _same)],
    "metric": [(choose, "first_by_metric", lambda problem, ranked: ranked[0])],
    "caution": [(choose, "has_learned", lambda problem, ledger, ranked: True)],
    "second rates": [(promote, "_baselines", lambda *args, **kinds: (_BASELINES(*args, **kinds)[0], []))],
    "recommendation": [(engine, "recommended", lambda problem, confirmed, *, incumbent, **_: incumbent)],
}
_BASELINES: Callable[..., tuple[Any, Any]] = promote._baselines


@contextmanager
def without(names: Sequence[str]) -> Iterator[None]:
    """A search runs without these pieces inside.

    Raises:
        TableError: There is no such piece.
    """
    if unknown := [name for name in names if name not in PIECES]:
        raise TableError(f"There is no piece {unknown[0]!r}; the pieces are {', '.join(PIECES)}.")
    with ExitStack() as stack:
        for name in names:
            for where, attribute, value in PIECES[name]:
                stack.enter_context(patch.object(where, attribute, value))
        yield
