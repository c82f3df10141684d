"""DERIVE: the settings of a full run that the user leaves open, from rows, task and model.

Functions that start with `with_` return what they are passed with the settings that they chose, and decisions
that say by what rule. Settings that the user made stay.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, cast

import numpy as np

from autopeft import train
from autopeft.data import Split
from autopeft.model import BaseModel
from autopeft.plugins import Task, TaskDefaults, last_answer
from autopeft.types import Decision, RunSpec, TaskSpec, with_setting

PERCENTILE = 99  # of the rows that fit uncut; the longest few would decide memory and time; heuristic
MULTIPLE = 8  # of tokens, as matrix units like it
CPU_SHARE = 0.5  # of a GPU's tokens per step and per block, since a CPU's steps are slow; heuristic
LONGER = 4  # the task's upper limit grows by this if it would cut more than half of the rows; heuristic
_BLOCKS = 200  # of a packed train split, at least: enough for different batches in every step; heuristic
_LONGER_ANSWER = 1.25  # a model's answer may be longer than the true one; heuristic
_BATCHES = 8  # in an epoch, at least; heuristic
_SAMPLED_ROWS = 2000  # to count the tokens of; heuristic: a percentile within some tokens

log = logging.getLogger(__name__)


def with_max_length(
    spec: RunSpec, rows: Split, base: BaseModel, task: Task, *, device: str
) -> tuple[RunSpec, tuple[Decision, ...]]:
    """Derive the tokens of an example from train rows; lower a set length that the model does not take.

    `device` is the type of the device that trains, such as cpu; `base` may be a skeleton without weights.
    """
    limits, requested, most = task.defaults.max_length, spec.task.max_length, train.max_length_of(base)
    if requested is not None:
        if most is None or requested <= most:
            return spec, ()
        value, rule = most, f"the limit of model and tokenizer, which is below --max-length {requested:,}"
        log.warning("%s", _decision("max_length", value, rule))
    elif limits is None:
        return spec, ()
    elif task.defaults.is_packed:
        longest = int(limits[1] * (CPU_SHARE if device == "cpu" else 1))
        n_tokens = train.count_tokens(rows, base, task, block_length=limits[0])
        value, rule = block_length(n_tokens, limits=(limits[0], min(longest, most or longest)))
    else:
        n_rows = len(rows.labels)
        order = np.random.default_rng(spec.search.seed).permutation(n_rows)
        sampled = sorted(order[:_SAMPLED_ROWS].tolist())
        lengths = train.uncut_lengths(rows, sampled, base, task, most=LONGER * limits[1])
        value, rule = example_length(lengths, n_rows=n_rows, limits=limits, max_tokens=most)
    return with_setting(spec, "task.max_length", value), (_decision("max_length", value, rule),)


def with_batch_and_epochs(
    spec: RunSpec, examples: train.EncodedSplit, defaults: TaskDefaults, *, device: str
) -> tuple[RunSpec, tuple[Decision, ...]]:
    """Derive batch size and epochs from the encoded train split, unless they are set."""
    n_train, decisions = len(examples.labels), []
    if spec.task.batch_size is None:
        lengths = examples.lengths.tolist()
        share = CPU_SHARE if device == "cpu" else 1.0
        value, rule = batch_size(lengths, n_train=n_train, defaults=defaults, share=share)
        spec = with_setting(spec, "task.batch_size", value)
        decisions.append(_decision("batch_size", value, rule))
    if spec.task.epochs is None and spec.task.max_steps is None:
        value, rule = epochs(n_train, defaults=defaults)
        spec = with_setting(spec, "task.epochs", float(value))
        decisions.append(_decision("epochs", value, rule))
    return spec, tuple(decisions)


def with_answer_length(task: Task, examples: train.EncodedSplit) -> tuple[Task, tuple[Decision, ...]]:
    """Derive the tokens of a generated answer, if the task generates answers."""
    if (limits := task.defaults.max_new_tokens) is None:
        return task, ()
    lengths = [len(last_answer(labels)[1]) for labels in examples.labels]
    value, rule = answer_length(lengths, limits=limits)
    return replace(cast(Any, task), max_new_tokens=value), (_decision("max_new_tokens", value, rule),)


def _decision(name: str, value: int, rule: str) -> Decision:
    return Decision(setting=f"task.{name}", value=f"{value:,}", rule=rule)


def full_run(task: TaskSpec, n_train: int) -> tuple[int, int]:
    """Return the examples of a step, and the steps of a full run."""
    n_per_step = min(task.batch_size or n_train, n_train)
    n_steps = train.full_run_steps(
        n_train=n_train, batch_size=n_per_step, epochs=task.epochs, max_steps=task.max_steps
    )
    return n_per_step, n_steps


def example_length(
    lengths: Sequence[int],
    *,
    n_rows: int,
    limits: tuple[int, int],
    max_tokens: int | None,
) -> tuple[int, str]:
    """Derive the tokens of an example: the 99th percentile of the rows, within limits and the context.

    The upper limit is four times as high if it would cut more than half of the rows. `lengths` are those of
    some of the `n_rows` train rows, uncut; model and tokenizer take `max_tokens`. Returns the length, and the
    rule that decided it in words, as the functions below do.
    """
    typical = max(limits[0], _in_multiples(_percentile(lengths)))
    n_long = sum(length > limits[1] for length in lengths)
    most = LONGER * limits[1] if 2 * n_long > len(lengths) else limits[1]
    value = min(typical, most, max_tokens or typical)
    n_cut = sum(length > value for length in lengths)
    rows = f"{len(lengths):,} {'' if len(lengths) == n_rows else 'sampled '}train rows"
    if not n_cut:
        return value, f"all {rows} fit; the longest has {max(lengths):,} tokens"
    if value == typical:
        why = f"the {PERCENTILE}th percentile"
    else:
        why = "the limit of model and tokenizer" if value == max_tokens else "the most by default"
    return value, f"{why}; {n_cut:,} of {rows} are cut"


def block_length(n_tokens: int, *, limits: tuple[int, int]) -> tuple[int, str]:
    """Derive the tokens of a block of text: the most, halved until there are 200 blocks."""
    least, value = limits
    while value // 2 >= least and n_tokens // value < _BLOCKS:
        value //= 2
    return value, f"about {n_tokens // value:,} train blocks"


def answer_length(lengths: Sequence[int], *, limits: tuple[int, int]) -> tuple[int, str]:
    """Derive the tokens to generate per answer: the 99th percentile of the true ones, and a quarter more."""
    typical = _in_multiples(int(_percentile(lengths) * _LONGER_ANSWER))
    rule = f"a quarter more than the {PERCENTILE}th percentile, {limits[0]:,} to {limits[1]:,}; the longest"
    return min(max(typical, limits[0]), limits[1]), f"{rule} completion has {max(lengths):,} tokens"


def batch_size(
    lengths: Sequence[int], *, n_train: int, defaults: TaskDefaults, share: float = 1.0
) -> tuple[int, str]:
    """Derive the examples per step: a power of two that gives about the task's usual tokens per step.

    A small train split gets fewer, so that an epoch has at least 8 steps. `lengths` are the tokens of train
    examples, or of a sample of these, `n_train` in all; `share` multiplies the usual tokens per step.
    """
    least, most = defaults.batch_size
    mean = fmean(lengths)
    fitting = most if defaults.step_tokens is None else int(share * defaults.step_tokens / mean)
    value = _power_of_two(min(most, max(least, fitting)))
    most_by_epoch = _power_of_two(max(1, n_train // _BATCHES))
    if most_by_epoch < value:
        return most_by_epoch, f"an epoch has at least {_BATCHES} steps; there are {n_train:,} train examples"
    if defaults.step_tokens is None:
        return value, "the default for this task"
    return value, f"about {value * mean:,.0f} tokens a step"


def epochs(n_train: int, *, defaults: TaskDefaults) -> tuple[int, str]:
    """Derive the epochs of a full run: fewer for a larger train split, within the task's limits."""
    least, most = defaults.epochs
    if defaults.seen_examples is None:
        return most, "the default for this task"
    value = min(most, max(least, defaults.seen_examples // n_train))
    rule = f"{least} to {most} by size, up to {defaults.seen_examples:,} examples; train has {n_train:,}"
    return value, rule


def _power_of_two(value: int) -> int:
    return 1 << (value.bit_length() - 1)


def _percentile(lengths: Sequence[int]) -> int:
    return int(np.percentile(lengths, PERCENTILE, method="inverted_cdf"))


def _in_multiples(value: int) -> int:
    return -(-value // MULTIPLE) * MULTIPLE
