"""The templates, with what each kind of file needs escaped."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from autopeft.records import rate
from autopeft.report import formatting as words

_SPECIAL = {"<": "&lt;", "|": "\\|", "`": "\\`", "](": "]\\(", "*": "\\*", "$": "\\$"}  # of Markdown
_EDGE_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_FILTERS = (
    *(words.count, words.difference, words.duration, words.first_line, words.interval, words.last_part),
    *(words.loss, words.memory, words.metric, words.minuses, words.percent, words.plus_minus, rate),
    *(words.share_words, words.significant),
)


def render(template: str, /, **context: Any) -> str:
    """A template filled in; its name says the kind of file: `report.html`, `report.md` or `heat.svg`."""
    return _environment(template.rpartition(".")[2]).get_template(f"{template}.j2").render(context)


@cache
def _environment(kind: str) -> Environment:
    finalize: dict[str, Callable[[Any], Any]] = {"md": _escape_markdown, "svg": _printable}
    environment = Environment(
        loader=PackageLoader("autopeft", "templates"),
        autoescape=kind in ("html", "svg"),
        finalize=finalize.get(kind),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update({function.__name__: function for function in _FILTERS})
    return environment


def _escape_markdown(value: Any) -> Any:
    """Text that opens no tag, link, table cell, code span, emphasis or formula; `safe` values stay.

    An underscore between letters opens nothing, and names keep theirs.
    """
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split("\n"))
    for special, escaped in _SPECIAL.items():
        text = text.replace(special, escaped)
    return _EDGE_UNDERSCORE.sub(r"\\_", text)


def _printable(value: Any) -> Any:
    """Text without the characters that XML cannot hold; values marked `safe` stay as they are."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in value)
