"""Data frames as datasets: columns that `datasets` lacks a type for are read as text, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets
import pandas as pd

from autopeft.errors import DataError, reason_of
from autopeft.records import shortened

# What pandas, pyarrow and datasets raise for a column that they have no type for.
UNREADABLE = (NotImplementedError, OverflowError, TypeError, ValueError)
_MOST_LETTERS = 120  # of a reason, which may print a whole cell; chosen by hand


def dataset_of(frame: pd.DataFrame) -> datasets.Dataset:
    """A data frame as a dataset without its index; periods and intervals become text.

    Raises:
        DataError: Two columns have one name, or a column holds values of several types or of an unknown one.
    """
    names = [str(name) for name in frame.columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"The data in memory has several columns with the name {', '.join(twice)}; rename them, or drop "
            "all but one."
        )
    frame = frame.copy(deep=False)  # the columns of the user's frame stay as they are
    for name in frame.columns:
        if _is_span(frame[name].dtype):
            frame[name] = frame[name].astype(object).map(str, na_action="ignore")
    try:
        return datasets.Dataset.from_pandas(frame, preserve_index=False)
    except UNREADABLE as error:
        raise DataError(next(_faults(frame), reason_of(error))) from error


def _is_span(dtype: Any) -> bool:
    """Whether a column holds periods or intervals, or categories of these, as `pandas.cut` gives them."""
    dtype = dtype.categories.dtype if isinstance(dtype, pd.CategoricalDtype) else dtype
    return isinstance(dtype, pd.PeriodDtype | pd.IntervalDtype)


def _faults(frame: pd.DataFrame) -> Iterator[str]:
    """A sentence for each column that cannot be read."""
    for name in frame.columns:
        try:
            datasets.Dataset.from_pandas(frame[[name]], preserve_index=False)
        except UNREADABLE as error:
            # pyarrow's second argument repeats the column; that of Unicode is the whole cell.
            words = error.reason if isinstance(error, UnicodeEncodeError) else str(error.args[0])
            reason = shortened(words.partition("\n")[0].rstrip("."), _MOST_LETTERS)
            yield (
                f"Column {name} of the data in memory cannot be read ({reason}); give its values one simple "
                "type, such as text with .astype(str), or drop it."
            )
