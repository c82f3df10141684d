"""Times written as text: ISO 8601, dates of numbers in any order that only one reading fits, and words."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import pandas as pd

from autopeft.errors import DataError
from autopeft.records import shortened

_DATE = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})(?!\d)(.*)", re.DOTALL)
# Where day, month and year stand among the three numbers of a date.
_ORDERS = ((0, 1, 2), (1, 0, 2), (2, 1, 0))
_PIVOT = 69  # years of two digits from here on are of the last century, as in `strptime`


def read_times(texts: Sequence[str], places: Sequence[str], column: str) -> list[Any]:
    """Datetimes of texts that are no numbers; those without an offset count as UTC, so that all compare.

    Dates such as 13/05/2024 are read in the one order that fits every row; other texts as pandas infers from
    the first one. Messages call the texts by their `places`.

    Raises:
        DataError: A text is no time, or several orders of day, month and year fit all rows.
    """
    try:
        return list(pd.to_datetime(pd.Series(texts), format="ISO8601", utc=True))
    except ValueError:
        dates = [match for match in map(_DATE.fullmatch, texts) if match]
    options: dict[str, Any] = {"utc": True}
    series = pd.Series(texts)
    if len(dates) == len(texts):
        series, options = pd.Series(_in_iso(dates, column)), {"utc": True, "format": "mixed"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas warns where it finds no format for all, as in "May 2023"
        try:
            return list(pd.to_datetime(series, **options))
        except ValueError as error:
            faulty = int(pd.to_datetime(series, errors="coerce", **options).isna().argmax())
            raise DataError(
                f"Column {column} holds a time that cannot be read, {shortened(texts[faulty], 40)!r} in "
                f"{places[faulty]}; write YYYY-MM-DD or YYYY-MM-DD HH:MM:SS in every row."
            ) from error


def _in_iso(dates: Sequence[re.Match[str]], column: str) -> list[str]:
    """The dates as YYYY-MM-DD, with what follows them; raises DataError unless one order fits all of them."""
    numbers = [(int(date[1]), int(date[3]), int(date[4])) for date in dates]
    has_centuries = any(len(date[4]) > 2 for date in dates)
    orders = [
        (day, month, year)
        for day, month, year in _ORDERS
        if not (has_centuries and year == 0)
        and all(1 <= cells[day] <= 31 and 1 <= cells[month] <= 12 for cells in numbers)
    ]
    if len(orders) != 1:
        reason = "fit several orders of day and month" if orders else "do not fit one order of day and month"
        raise DataError(
            f"The dates in column {column}, such as {shortened(dates[0][0], 40)!r}, {reason}; write them as "
            "YYYY-MM-DD."
        )
    day, month, year = orders[0]
    return [
        f"{_full_year(cells[year], date)}-{cells[month]:02d}-{cells[day]:02d}{date[5]}"
        for cells, date in zip(numbers, dates, strict=True)
    ]


def _full_year(year: int, date: re.Match[str]) -> int:
    """A year of two digits with its century."""
    return year if len(date[4]) > 2 else year + (1900 if year >= _PIVOT else 2000)
