"""Numbers as people write them; the templates use these functions as filters, and `render` fills them in."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from functools import cache
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from autopeft.types import minus, rate

NOTHING = "–"
_LEAST = 1e-3  # the smallest number but 0 that three decimals show
_SPECIAL = {"<": "&lt;", "|": "\\|", "`": "\\`", "](": "]\\(", "*": "\\*", "$": "\\$"}  # of Markdown
_EDGE_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # not between letters: Markdown's emphasis


def count(number: int) -> str:
    """Format a count with thousands separators."""
    return f"{number:,}"


def last_part(name: str) -> str:
    """Return the last part of a local path to a base model; ids of the hub stay whole."""
    return PurePath(name).name if PurePath(name).is_absolute() else name


def percent(number: float) -> str:
    """Format a percentage with two decimals, or with two digits if it is small."""
    if number == 0 or number >= 0.1:
        return f"{number:.2f} %"
    return f"{number:.2g} %" if number >= 1e-4 else "< 0.0001 %"


def share_words(share: float) -> str:
    """Format a share of the budget as a fraction, such as 1/25."""
    return f"1/{round(1 / share)}"


def significant(number: float, n_digits: int = 2) -> str:
    """Format a number with some significant digits; with an exponent only below a millionth.

    Example:
        >>> significant(100.0), significant(4.25), significant(0.0000312, 3), significant(-0.00000031)
        ('100', '4.2', '0.0000312', '−3.1e-7')
    """
    text = rate(number) if 0 < abs(number) < 1e-6 else f"{Decimal(f'{number:.{n_digits}g}'):f}"
    return minus(text) if number < 0 else text


def metric(value: float | None, is_share: bool) -> str:
    """Format a metric: percent with one decimal if it is a share in [0, 1], else three decimals.

    Numbers too small for these have three digits.

    Example:
        >>> metric(0.954, True), metric(-0.25, False), metric(0.0000123, False)
        ('95.4 %', '−0.250', '0.0000123')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if not is_share and 0 < abs(value) < _LEAST:
        return significant(value, 3)
    number, digits = (100 * value, 1) if is_share else (value, 3)
    text = minus(f"{round(number, digits) or 0.0:.{digits}f}")
    return f"{text} %" if is_share else text


def plus_minus(std_error: float | None, is_share: bool) -> str:
    """Format a standard error in the unit of `metric`, with two digits if it would round to zero."""
    if std_error is None or not math.isfinite(std_error):
        return ""
    value, digits = (100 * std_error, 1) if is_share else (std_error, 3)
    return f"± {value:.{digits}f}" if round(value, digits) or not value else f"± {significant(value)}"


def difference(value: float | None, is_share: bool, *, signed: bool = True) -> str:
    """Format a difference of metrics: points with one decimal for a share, else three decimals.

    Shares differ by 100 points at most; a larger difference is cut. If all decimals would be 0, points have
    one more, and other metrics have two significant digits.

    Example:
        >>> difference(0.014, True), difference(0.014, False), difference(0.00031, False, signed=False)
        ('+1.4 points', '+0.014', '0.00031')
        >>> difference(-0.0004, True), difference(0.0, True, signed=False)
        ('−0.04 points', '0.0 points')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    sign = "+" if signed else ""
    if is_share:
        points = 100 * within_share(value)
        digits = 1 if round(points, 1) or not round(points, 2) else 2
        text = f"{round(points, digits) or 0.0:{sign}.{digits}f} points"
    elif round(value, 3) or not value:
        text = f"{value:{sign}.3f}"
    else:
        return f"{sign if value > 0 else ''}{significant(value)}"
    return minus(text) if value < 0 else text


def interval(low: float, high: float, is_share: bool) -> str:
    """Format the ends of an interval of differences, without their unit: `−0.6 to +2.2`."""
    return " to ".join(difference(end, is_share).removesuffix(" points") for end in (low, high))


def within_share(difference: float) -> float:
    """Cut a difference of two shares to ± 1, the largest that is possible."""
    return min(max(difference, -1.0), 1.0)


def minuses(sentence: str) -> str:
    """Replace the hyphens of negative numbers in a sentence by minus signs.

    Example:
        >>> minuses("-1.5 points, 95 % interval -2.0 to 1.0, half-length runs at 1e-3")
        '−1.5 points, 95 % interval −2.0 to 1.0, half-length runs at 1e-3'
    """
    return re.sub(r"(?<![\w.-])-(?=\d)", "−", sentence)


def learning_rate(value: float | None) -> str:
    """Format a learning rate; a dash for the untrained model, which has none."""
    return NOTHING if value is None else rate(value)


def duration(seconds: float | None) -> str:
    """Format seconds as seconds, minutes or hours."""
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{significant(seconds)} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def memory(n_bytes: int | None) -> str:
    """Format bytes of memory or of a file in kB, MB or GB."""
    if not n_bytes:
        return NOTHING
    size, unit = next((pair for pair in ((1e9, "GB"), (1e6, "MB")) if n_bytes >= pair[0]), (1e3, "kB"))
    return f"{n_bytes / size:.{1 if n_bytes < 10 * size else 0}f} {unit}"


def render(template: str, /, **context: Any) -> str:
    """Fill in a template; its name says the kind of file: `report.html`, `report.md` or `chart.svg`."""
    return _environment(template.rpartition(".")[2]).get_template(f"{template}.j2").render(context)


@cache
def _environment(kind: str) -> Environment:
    """Load the templates with the escapes that a kind of file needs."""
    environment = Environment(
        loader=PackageLoader("autopeft", "templates"),
        autoescape=kind in ("html", "svg"),
        finalize=_escape_markdown if kind == "md" else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: list[Any] = [count, difference, duration, interval, last_part, learning_rate, memory]
    filters += [metric, minuses, plus_minus, rate, share_words]
    environment.filters.update({function.__name__: function for function in filters})
    return environment


def _escape_markdown(value: Any) -> Any:
    """Escape what would open a tag, link, table cell, code span, emphasis or formula; `safe` values stay.

    An underscore between letters opens nothing, and names keep theirs.
    """
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split("\n"))
    for special, escaped in _SPECIAL.items():
        text = text.replace(special, escaped)
    return _EDGE_UNDERSCORE.sub(r"\\_", text)
