"""The lengths of a dataset's rows for a model, from its tokenizer and config alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from autopeft import model, train
from autopeft.extension import discover
from autopeft.pipeline.defaults import with_full_run
from autopeft.pipeline.example_length import with_max_length
from autopeft.pipeline.in_memory import NAMED, load_data
from autopeft.records import DataSpec, ModelSpec, RunSpec, TaskSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RowLengths:
    """What a full run reads: `n_rows` a step, padded to `typical_tokens` in the mean, `longest` at most."""

    n_rows: int
    longest: int
    typical_tokens: int
    n_steps: int


def row_lengths(spec: ModelSpec, source: str, *, task: TaskSpec, device: str) -> RowLengths:
    """The rows of a full run as a search would train them, without weights; batches are padded.

    Args:
        spec: The base model, of which the config and the tokenizer are read.
        source: The dataset.
        task: The task, and what the user has set of batch size, length, epochs and steps.
        device: The type of the device that trains, such as cpu, on which what is left open depends.

    Raises:
        DataError, ModelError: The data cannot be read, or the model has no tokenizer.
    """
    run = RunSpec(model=spec.model_copy(update={"quantize": "none"}), data=DataSpec(source=source), task=task)
    part = discover("autopeft.tasks")[task.name]
    loaded = load_data(run, part.read_rows, NAMED)
    base = model.load_skeleton(spec, auto_class=part.auto_class)
    base.tokenizer = model.load_processor(spec)
    fitted = part.fitted(run.task, loaded.target, base.tokenizer)
    run, length = with_max_length(run, loaded, base, fitted, device)
    encoded = train.encode_split(loaded.train, base=base, task=fitted, max_length=run.task.max_length)
    run, full_run = with_full_run(run, encoded, fitted, device)
    for decision in (*length, *full_run):
        log.info("%s", decision)
    n_train = len(encoded.labels)
    n_rows = min(run.task.batch_size or n_train, n_train)
    steps = train.train_rows(encoded.lengths, n_steps=train.TYPICAL_STEPS, batch_size=n_rows, seed=0)
    padded = [train.padded_tokens(step, encoded.lengths) for step in steps]
    return RowLengths(
        n_rows=n_rows,
        longest=encoded.longest,
        typical_tokens=round(float(np.mean(padded)) / n_rows),
        n_steps=train.full_run_steps(
            n_train=n_train, batch_size=n_rows, epochs=run.task.epochs, max_steps=run.task.max_steps
        ),
    )
