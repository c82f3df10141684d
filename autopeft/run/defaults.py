"""Settings of a full run that the user leaves open, derived from the rows, the task and the base model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, cast

import numpy as np

from autopeft import train
from autopeft.data import LabelledData
from autopeft.model import BaseModel
from autopeft.plugins import Task, TaskDefaults, last_answer
from autopeft.types import Decision, RunSpec, TaskSpec, with_setting

PERCENTILE = 99  # of the rows that fit uncut; the longest few would decide memory and time; heuristic
MULTIPLE = 8  # of tokens, as matrix units like it
CPU_SHARE = 0.5  # of a GPU's tokens per step and per block, since a CPU's steps are slow; heuristic
_LONGER = 4  # the task's upper limit grows by this if it would cut more than half of the rows; heuristic
_BLOCKS = 200  # of a packed train split, at least: enough for different batches in every step; by hand
_SAMPLED_ROWS = 2000  # whose tokens are counted; heuristic: a percentile within some tokens
_EXACT_MATCH, _SHORT_ANSWER = "exact-match", 24  # tokens of an answer that has one right form; by hand
_LONGER_ANSWER = 1.25  # a model's answer may be longer than the true one; heuristic
_BATCHES = 8  # in an epoch, at least; heuristic

Derived = tuple[RunSpec, tuple[Decision, ...]]

log = logging.getLogger(__name__)


def with_max_length(spec: RunSpec, loaded: LabelledData, base: BaseModel, task: Task, device: str) -> Derived:
    """Derive the tokens of an example if the user does not set them; `device` is a type, such as cpu.

    A requested length is lowered, with a warning, to what tokenizer and model take. One that fits is kept.

    Raises DataError if the rows cannot be encoded.
    """
    limits, room, requested = task.defaults.max_length, train.max_length_of(base), spec.task.max_length
    if requested is not None and room is not None and requested > room:
        text = "--max-length is %s tokens, and %s of %s takes at most %s; longer rows are cut there."
        log.warning(text, f"{requested:,}", train.limited_by(base), base.name, f"{room:,}")
        rule = f"{train.limited_by(base)}, which is below --max-length {requested:,}"
        return with_setting(spec, "task.max_length", room), (decision("max_length", room, rule),)
    if requested is not None or limits is None:
        return spec, ()
    if task.defaults.is_packed:
        n_tokens = train.count_tokens(loaded.train, base, task, block_length=limits[0])
        most = int(limits[1] * (CPU_SHARE if device == "cpu" else 1))
        value, rule = block_length(n_tokens, limits=(limits[0], min(most, room or most)))
    else:
        order = np.random.default_rng(spec.search.seed).permutation(len(loaded.train.labels))
        rows = sorted(order[:_SAMPLED_ROWS].tolist())
        lengths = train.uncut_lengths(loaded.train, rows, base, task, most=_LONGER * limits[1])
        value, rule = example_length(
            lengths,
            n_rows=len(loaded.train.labels),
            limits=limits,
            room=room,
            limited_by=train.limited_by(base),
        )
    return with_setting(spec, "task.max_length", value), (decision("max_length", value, rule),)


def example_length(
    lengths: Sequence[int],
    *,
    n_rows: int,
    limits: tuple[int, int],
    room: int | None,
    limited_by: str = "the model's context",
) -> tuple[int, str]:
    """Derive the tokens of an example: the 99th percentile of the rows, within limits and the context.

    The upper limit is four times as high if it would cut more than half of the rows. Returns the length, and
    the rule that decided it in words, as all functions here do.

    `lengths` are the tokens of a sample of the `n_rows` of the train split, nothing cut off; counting ends
    above four times the upper limit. `room` is what model and tokenizer take, None without a limit, and
    `limited_by` says in words what sets it.
    """
    quantile = int(np.percentile(lengths, PERCENTILE, method="inverted_cdf"))
    typical = max(limits[0], -(-quantile // MULTIPLE) * MULTIPLE)
    n_long = sum(length > limits[1] for length in lengths)
    counted = _LONGER * limits[1]
    most = counted if 2 * n_long > len(lengths) else limits[1]
    value = min(typical, most, room or typical)
    n_cut, longest = sum(length > value for length in lengths), max(lengths)
    rows = (
        f"{len(lengths):,} train rows" if len(lengths) == n_rows else f"{len(lengths):,} sampled train rows"
    )
    has = f"has {longest:,}" if longest <= counted else f"has more than {counted:,}"
    if not n_cut:
        return value, f"all of {rows} fit, the longest {has} tokens"
    if value == typical:
        why = f"the {PERCENTILE}th percentile"
    else:
        why = limited_by if value == room else "the most by default"
    return value, f"{why}; {n_cut:,} of {rows} are cut, the longest {has} tokens"


def block_length(n_tokens: int, *, limits: tuple[int, int]) -> tuple[int, str]:
    """Derive the tokens of a block of text: the most, halved until there are 200 blocks."""
    least, value = limits
    while value // 2 >= least and n_tokens // value < _BLOCKS:
        value //= 2
    if value == limits[1]:
        return value, f"the most by default, or by the model; about {n_tokens // value:,} train blocks"
    return value, f"about {n_tokens // value:,} train blocks; longer ones would be fewer than {_BLOCKS}"


def decision(name: str, value: int, rule: str) -> Decision:
    """Record the decision about a setting of the task."""
    return Decision(setting=f"task.{name}", value=f"{value:,}", rule=rule)


def with_full_run(spec: RunSpec, examples: train.EncodedSplit, task: Task, device: str) -> Derived:
    """Derive batch size and epochs unless the user sets them; `examples` are those of the train split."""
    n_train = len(examples.labels)
    decisions = []
    if spec.task.batch_size is None:
        share = CPU_SHARE if device == "cpu" else 1.0
        lengths = examples.lengths[examples.typical].tolist()
        value, rule = batch_size(lengths, n_train=n_train, defaults=task.defaults, share=share)
        spec = with_setting(spec, "task.batch_size", value)
        decisions.append(decision("batch_size", value, rule))
    if spec.task.epochs is None and spec.task.max_steps is None:
        n_epochs, rule = epochs(n_train, defaults=task.defaults)
        spec = with_setting(spec, "task.epochs", float(n_epochs))
        decisions.append(decision("epochs", n_epochs, rule))
    return spec, tuple(decisions)


def with_max_new_tokens(task: Task, examples: train.EncodedSplit) -> tuple[Task, tuple[Decision, ...]]:
    """Derive the tokens of a generated answer from the train examples, if the task's metric generates.

    If it does not, the user chose no metric, and answers are short, a decision recommends `exact-match`.
    """
    limits = task.defaults.max_new_tokens
    has_answers = task.defaults.family == "language" and not task.defaults.is_packed
    is_open = _EXACT_MATCH in task.metrics and getattr(task, "spec", TaskSpec()).metric is None
    if limits is None and not (has_answers and is_open):
        return task, ()
    lengths = [len(last_answer(examples.labels[i])[1]) for i in examples.typical]
    if limits is None:
        rule = f"completions have {max(lengths)} tokens at most; {_EXACT_MATCH} says how many are right"
        recommendation = Decision(setting="task.metric", value=task.metric, rule=rule)
        return task, (recommendation,) if max(lengths) <= _SHORT_ANSWER else ()
    value, rule = answer_length(lengths, limits=limits)
    return replace(cast("Any", task), max_new_tokens=value), (decision("max_new_tokens", value, rule),)


def answer_length(lengths: Sequence[int], *, limits: tuple[int, int]) -> tuple[int, str]:
    """Derive the tokens to generate per answer: the 99th percentile of the true answers, and a quarter more.

    `limits` are the least and the most tokens.
    """
    quantile = int(np.percentile(lengths, PERCENTILE, method="inverted_cdf"))
    typical = -(-int(quantile * _LONGER_ANSWER) // MULTIPLE) * MULTIPLE
    value, longest = min(max(typical, limits[0]), limits[1]), max(lengths)
    if value == typical:
        why = f"a quarter more than the {PERCENTILE}th percentile of the completions"
        return value, f"{why}; the longest has {longest:,} tokens"
    limit = "least" if value > typical else "most"
    return value, f"the {limit}; the longest completion has {longest:,} tokens"


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
        return value, "the usual number of this task"
    return value, f"about {value * mean:,.0f} tokens a step"


def epochs(n_train: int, *, defaults: TaskDefaults) -> tuple[int, str]:
    """Derive the epochs of a full run: fewer for a larger train split, within the task's limits."""
    least, most = defaults.epochs
    if defaults.seen_examples is None:
        return most, "the usual number of this task"
    value = min(most, max(least, defaults.seen_examples // n_train))
    return (
        value,
        f"{least} to {most} by size, up to {defaults.seen_examples:,} examples; train has {n_train:,}",
    )


def _power_of_two(value: int) -> int:
    return 1 << (value.bit_length() - 1)
