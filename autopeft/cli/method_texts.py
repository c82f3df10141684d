"""What `methods` prints: a table of all methods, or everything about one."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap
from typing import Any

from autopeft.extension import Method

METHOD_COLUMNS = ("name", "method", "what is trained", "merges", "learning rate")
_COLUMNS, _INDENT = 80, 18


def method_rows(methods: Iterable[Method]) -> list[tuple[str, ...]]:
    """One row per method, for `METHOD_COLUMNS`."""
    return [(m.name, m.label, m.summary, _yes_or_no(m.merges), _range(m)) for m in methods]


def method_text(method: Method) -> str:
    """Everything about one method, at most 80 columns wide."""
    servers = ", ".join(method.servers({}))
    facts = {
        "trains": method.summary,
        "parameters": f"{method.formula}, for a map of n inputs and m outputs",
        "ranks": "yes" if method.ranked else "none",
        "identity at start": _yes_or_no(method.identity_at_start),
        "merges": _yes_or_no(method.merges),
        "read by": servers or ("peft alone; merge it to serve it" if method.merges else "peft alone"),
        "learning rates": f"{_range(method)}: {method.learning_rate_source}",
        "step time": f"{method.step_time:.2f}: {method.step_time_source}",
        "options": "; ".join(f"{name} {_values(values)}" for name, values in method.choices.items())
        or "none",
    }
    lines = [f"{name:<{_INDENT}}{text}" for name, text in facts.items()]
    wrapped = [wrap(line, _COLUMNS, subsequent_indent=" " * _INDENT) for line in lines]
    return "\n".join([f"{method.name}: {method.label}", "", *(line for lines in wrapped for line in lines)])


def method_json(method: Method) -> dict[str, Any]:
    """Everything about one method, for scripts."""
    facts = {name: getattr(method, name) for name in Method.__annotations__}
    return {**facts, "servers": list(method.servers({}))}


def _values(values: Iterable[object]) -> str:
    return ", ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)


def _range(method: Method) -> str:
    return "{:g} … {:g}".format(*method.learning_rate_range)


def _yes_or_no(fact: bool) -> str:
    return "yes" if fact else "no"
