"""Model, tokenizer and dataset that a Python user passes as objects instead of names."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import datasets
import pandas as pd
from torch import nn

from autopeft import data, model
from autopeft.data import LabelledData
from autopeft.errors import DataError, ModelError, reason_of
from autopeft.extension import Task, discover
from autopeft.model import BaseModel
from autopeft.model.user_model import is_narrow
from autopeft.records import IN_MEMORY, RunSpec, shortened, with_setting

_NAME = "dataset in memory"
# What pandas, pyarrow and datasets raise for a column that they have no type for.
UNREADABLE = (NotImplementedError, OverflowError, TypeError, ValueError)
_MOST_LETTERS = 120  # of a reason, which may print a whole cell; chosen by hand


@dataclass(frozen=True, kw_only=True, eq=False)
class InMemory:
    """A model, its tokenizer, and a dataset; None where a setting names the object.

    The dataset is a `Dataset`, a `DataFrame` of pandas or Polars, or a dictionary of these by split.
    """

    model: nn.Module | None = None
    tokenizer: Any = None
    data: Any = None


NAMED = InMemory()  # the settings name both model and dataset


def load_data(spec: RunSpec, read_rows: data.ReadRows, memory: InMemory) -> LabelledData:
    """The splits of the dataset that the settings name, or of the dataset in memory; raises DataError.

    The error names the tasks that read such columns, where these are usual for another task.
    """
    if memory.data is None and spec.data.source == IN_MEMORY:
        raise DataError(
            "The dataset of this run was an object in memory and cannot be read from settings; pass it in "
            "Python (autopeft.search(…, data=…)), or name a file with --data."
        )
    try:
        if memory.data is not None:
            return _from_memory(spec, read_rows, memory.data)
        return data.load(spec.data, seed=spec.search.seed, read_rows=read_rows)
    except data.NoLabelColumnError as error:
        other = data.other_rows_of(error.names)
        if other is None or other.read_rows is read_rows:
            raise
        tasks = discover("autopeft.tasks").values()
        names = " or ".join(task.name for task in tasks if task.read_rows is other.read_rows)
        remedy = f"for {other.words} set --task {names}, else name it"
        raise data.NoLabelColumnError(error.names, remedy=remedy) from error


def with_precision(spec: RunSpec, memory: InMemory) -> RunSpec:
    """The settings with the precision that `auto` comes to for this model and machine.

    Raises a ModelError for float32 where a model in memory is in bfloat16, which nobody can undo.
    """
    execution = spec.execution
    is_in_bfloat16 = memory.model is not None and is_narrow(memory.model)
    if is_in_bfloat16 and execution.dtype == "float32":
        raise ModelError(
            "dtype is 'float32', but the model in memory has weights in bfloat16; leave dtype out, or pass "
            "model.float()."
        )
    if execution.dtype != "auto":
        return spec
    if is_in_bfloat16:
        return with_setting(spec, "execution.dtype", "bfloat16")
    if memory.model is None:
        device, config = model.find_device(execution.device), model.config_of(spec.model)
    else:
        device, config = next(memory.model.parameters()).device, cast("Any", memory.model).config
    chosen = model.choose_precision(config, device)
    return with_setting(spec, "execution.dtype", chosen.dtype)


def load_base(spec: RunSpec, task: Task, loaded: LabelledData, memory: InMemory) -> BaseModel:
    """The base model that the settings name, or the model in memory; raises ModelError or SiteError."""
    names, execution = loaded.label_names, spec.execution
    precision = model.Precision(dtype=execution.dtype)
    if memory.model is None:
        return model.load(
            spec.model,
            auto_class=task.auto_class,
            label_names=names,
            device=execution.device,
            precision=precision,
        )
    if spec.execution.device is not None:
        raise ModelError(
            f"device is {spec.execution.device!r}, but a model in memory stays on its device; "
            "move the model with model.to(…) and leave device out."
        )
    if spec.model.quantize != "none":
        raise ModelError(
            f"quantize is {spec.model.quantize!r}, but a model in memory is used unchanged; "
            "load it quantised and leave quantize out."
        )
    return model.from_memory(
        memory.model,
        memory.tokenizer,
        auto_class=task.auto_class,
        label_names=names,
        precision=precision,
    )


def _from_memory(spec: RunSpec, read_rows: data.ReadRows, dataset: Any) -> LabelledData:
    """The splits of a dataset in memory, read through temporary Parquet files like any other dataset."""
    tables = dict(dataset) if isinstance(dataset, dict) else {"train": dataset}
    tables = {str(split): _as_dataset(table) for split, table in tables.items()}
    notes: list[str] = []
    if streams := {split: t for split, t in tables.items() if isinstance(t, datasets.IterableDataset)}:
        if spec.data.max_examples is None:
            raise DataError(
                "The data in memory is a stream of unknown length; limit the rows to read by max_examples."
            )
        tables |= data.first_rows(streams, spec.data.max_examples, notes)
    odd = [table for table in tables.values() if not isinstance(table, datasets.Dataset)]
    if odd or not tables:
        kind = type(odd[0]).__name__ if odd else "DatasetDict without splits"
        raise DataError(
            f"The data in memory is a {kind}; pass a datasets.Dataset, a pandas.DataFrame, a dictionary "
            "of these by split, or the name of a file."
        )
    for split in [split for split, table in tables.items() if not len(table)]:
        if len(tables) == 1 or "train" in split.lower():
            raise DataError(f"The data in memory has no rows in {split}; add rows.")
        del tables[split]
        notes.append(f"Left out {split} of the data in memory, which has no rows.")
    with tempfile.TemporaryDirectory(prefix="autopeft-", ignore_cleanup_errors=True) as parent, _no_bars():
        folder = Path(parent) / _NAME
        folder.mkdir()
        for split, table in tables.items():
            try:
                table.to_parquet(folder / f"{split}.parquet")
            except FileNotFoundError as error:  # a cell holds the path of a missing file
                raise DataError(
                    f"The data in memory names the file {error.filename}, which does not exist; correct the "
                    "path or drop the row."
                ) from error
            except UNREADABLE as error:
                raise DataError(
                    f"The data in memory cannot be written as Parquet ({reason_of(error)}); drop that column "
                    "or change it."
                ) from error
        named = spec.data.model_copy(update={"source": str(folder)})
        try:
            loaded = data.load(named, seed=spec.search.seed, read_rows=read_rows)
        except DataError as error:
            error.args = (str(error).replace(str(folder), f"the {_NAME}"),)
            raise
    return replace(loaded, name=_NAME, notes=(*notes, *loaded.notes))


def _as_dataset(table: Any) -> Any:
    """A data frame as a dataset without its index; any other object as it is."""
    if isinstance(table, pd.DataFrame):
        return dataset_of(table)
    return datasets.Dataset(table.to_arrow()) if hasattr(table, "to_arrow") else table  # of Polars


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    had_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if had_bars:
            datasets.enable_progress_bars()


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
        dtype = frame[name].dtype
        dtype = dtype.categories.dtype if isinstance(dtype, pd.CategoricalDtype) else dtype  # by `pandas.cut`
        if isinstance(dtype, pd.PeriodDtype | pd.IntervalDtype):
            frame[name] = frame[name].astype(object).map(str, na_action="ignore")
    try:
        return datasets.Dataset.from_pandas(frame, preserve_index=False)
    except UNREADABLE as error:
        raise DataError(next(_faults(frame), reason_of(error))) from error


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
