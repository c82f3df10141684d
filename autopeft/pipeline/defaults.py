"""Settings of a full run that the user leaves open, derived from the data, the task and the base model."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from autopeft import train
from autopeft.data import LabelledData, Split
from autopeft.extension import IGNORED, Task, TaskDefaults
from autopeft.model import BaseModel
from autopeft.records import Decision, RunSpec, with_setting

_PERCENTILE = 99  # of the rows that fit uncut; the longest few would decide memory and time; chosen by hand
_MULTIPLE = 8  # of tokens, as matrix units like it
_LONGER = 4  # times the task's most, where that would cut more than half of the rows; chosen by hand
_LONGER_ANSWER = 1.25  # a model's answer may be longer than the true one; chosen by hand
_BLOCKS = 200  # of a packed train split, at least: enough for different batches in every step; by hand
_BATCHES = 8  # in an epoch, at least; chosen by hand
_CPU_SHARE = 0.5  # of a GPU's tokens per step and per block, since a CPU's steps are slow; chosen by hand
_SAMPLED_ROWS = 2000  # whose tokens are counted; chosen by hand, for a percentile within some tokens

Derived = tuple[RunSpec, tuple[Decision, ...]]


def with_max_length(spec: RunSpec, loaded: LabelledData, base: BaseModel, task: Task, device: str) -> Derived:
    """The settings with the tokens of an example; `device` is the type of what trains, such as cpu.

    Raises DataError where the rows cannot be encoded.
    """
    limits = task.defaults.max_length
    if spec.task.max_length is not None or limits is None:
        return spec, ()
    room = train.max_length_of(base)
    if task.defaults.is_packed:
        n_tokens = train.count_tokens(loaded.train, base, task, block_length=limits[0])
        most = int(limits[1] * (_CPU_SHARE if device == "cpu" else 1))
        value, rule = block_length(n_tokens, limits=(limits[0], min(most, room or most)))
    else:
        lengths = _uncut_lengths(loaded.train, base, task, seed=spec.search.seed)
        value, rule = example_length(lengths, n_rows=len(loaded.train.labels), limits=limits, room=room)
    return with_setting(spec, "task.max_length", value), (_decision("max_length", value, rule),)


def example_length(
    lengths: Sequence[int], *, n_rows: int, limits: tuple[int, int], room: int | None
) -> tuple[int, str]:
    """Tokens of an example, with the rule: the 99th percentile of its rows, within limits and the context.

    Where the upper limit would cut more than half of the rows, it is four times as high.

    Args:
        lengths: Tokens of the rows that were counted, nothing cut off.
        n_rows: Rows of the train split, of which the counted ones are a sample.
        limits: The least and the most by the task.
        room: Positions of the model, None without a limit.

    Example:
        >>> example_length([60, 90], n_rows=2, limits=(128, 512), room=None)
        (128, 'all of 2 train rows fit, the longest has 90 tokens')
        >>> example_length([60, 90], n_rows=2, limits=(16, 64), room=None)
        (64, 'the most by default; 1 of 2 train rows are cut, the longest has 90 tokens')
        >>> example_length([90, 90], n_rows=2, limits=(16, 64), room=None)
        (96, 'all of 2 train rows fit, the longest has 90 tokens')
    """
    quantile = int(np.percentile(lengths, _PERCENTILE, method="inverted_cdf"))
    typical = max(limits[0], -(-quantile // _MULTIPLE) * _MULTIPLE)
    n_long = sum(length > limits[1] for length in lengths)
    most = limits[1] * (_LONGER if 2 * n_long > len(lengths) else 1)
    value = min(typical, most, room or typical)
    n_cut, longest = sum(length > value for length in lengths), max(lengths)
    rows = (
        f"{len(lengths):,} train rows" if len(lengths) == n_rows else f"{len(lengths):,} sampled train rows"
    )
    if not n_cut:
        return value, f"all of {rows} fit, the longest has {longest:,} tokens"
    if value == typical:
        why = f"the {_PERCENTILE}th percentile"
    else:
        why = "the model's context" if value == room else "the most by default"
    return value, f"{why}; {n_cut:,} of {rows} are cut, the longest has {longest:,} tokens"


def block_length(n_tokens: int, *, limits: tuple[int, int]) -> tuple[int, str]:
    """Tokens of a block of text, with the rule: the longest of which there are 200 blocks, halved from above.

    Example:
        >>> block_length(60_000, limits=(64, 512))
        (256, 'about 234 train blocks; longer ones would be fewer than 200')
    """
    least, value = limits
    while value // 2 >= least and n_tokens // value < _BLOCKS:
        value //= 2
    if value == limits[1]:
        return value, f"the most by default, or by the model; about {n_tokens // value:,} train blocks"
    return value, f"about {n_tokens // value:,} train blocks; longer ones would be fewer than {_BLOCKS}"


def with_full_run(spec: RunSpec, lengths: Sequence[int], task: Task, device: str) -> Derived:
    """The settings with batch size and epochs; `lengths` are tokens of train examples, `device` a type."""
    decisions = []
    if spec.task.batch_size is None:
        share = _CPU_SHARE if device == "cpu" else 1.0
        value, rule = batch_size(lengths, defaults=task.defaults, share=share)
        spec = with_setting(spec, "task.batch_size", value)
        decisions.append(_decision("batch_size", value, rule))
    if spec.task.epochs is None and spec.task.max_steps is None:
        n_epochs, rule = epochs(len(lengths), defaults=task.defaults)
        spec = with_setting(spec, "task.epochs", float(n_epochs))
        decisions.append(_decision("epochs", n_epochs, rule))
    return spec, tuple(decisions)


def with_max_new_tokens(spec: RunSpec, labels: Sequence[NDArray[np.int64]], task: Task) -> Derived:
    """The settings with the tokens of a generated answer, where the metric needs one.

    `labels` are those of the encoded train examples.
    """
    limits = task.defaults.max_new_tokens
    if spec.task.max_new_tokens is not None or limits is None:
        return spec, ()
    lengths = [int((np.asarray(row) != IGNORED).sum()) for row in labels]
    value, rule = answer_length(lengths, limits=limits)
    return with_setting(spec, "task.max_new_tokens", value), (_decision("max_new_tokens", value, rule),)


def answer_length(lengths: Sequence[int], *, limits: tuple[int, int]) -> tuple[int, str]:
    """Tokens to generate per answer, with the rule: the 99th percentile of the true ones and a quarter more.

    Example:
        >>> answer_length([40, 90], limits=(16, 1024))
        (112, 'a quarter more than the 99th percentile of the completions; the longest has 90 tokens')
        >>> answer_length([2, 3], limits=(16, 1024))
        (16, 'the least; the longest completion has 3 tokens')
    """
    quantile = int(np.percentile(lengths, _PERCENTILE, method="inverted_cdf"))
    wanted = -(-int(quantile * _LONGER_ANSWER) // _MULTIPLE) * _MULTIPLE
    value, longest = min(max(wanted, limits[0]), limits[1]), max(lengths)
    if value == wanted:
        why = f"a quarter more than the {_PERCENTILE}th percentile of the completions"
        return value, f"{why}; the longest has {longest:,} tokens"
    limit = "least" if value > wanted else "most"
    return value, f"the {limit}; the longest completion has {longest:,} tokens"


def batch_size(lengths: Sequence[int], *, defaults: TaskDefaults, share: float = 1.0) -> tuple[int, str]:
    """Examples per step, a power of two, with the rule.

    `share` multiplies the tokens of a step.

    Example:
        >>> text = TaskDefaults(max_length=None, batch_size=(4, 16), epochs=(1, 3), step_tokens=4096)
        >>> batch_size([500] * 1000, defaults=text)
        (8, 'about 4,000 tokens a step')
    """
    least, most = defaults.batch_size
    mean = fmean(lengths)
    wanted = most if defaults.step_tokens is None else int(share * defaults.step_tokens / mean)
    value = _power_of_two(min(most, max(least, wanted)))
    few = _power_of_two(max(1, len(lengths) // _BATCHES))
    if few < value:
        return few, f"an epoch has at least {_BATCHES} steps; there are {len(lengths):,} train examples"
    if defaults.step_tokens is None:
        return value, "the usual number of this task"
    return value, f"about {value * mean:,.0f} tokens a step"


def epochs(n_train: int, *, defaults: TaskDefaults) -> tuple[int, str]:
    """Epochs of a full run, with the rule.

    Example:
        >>> text = TaskDefaults(max_length=None, batch_size=(4, 16), epochs=(1, 3), seen_examples=20_000)
        >>> [epochs(n, defaults=text)[0] for n in (100, 9_000, 90_000)]
        [3, 2, 1]
    """
    least, most = defaults.epochs
    if defaults.seen_examples is None:
        return most, "the usual number of this task"
    value = min(most, max(least, defaults.seen_examples // n_train))
    return (
        value,
        f"{least} to {most} by size, up to {defaults.seen_examples:,} examples; train has {n_train:,}",
    )


def _power_of_two(value: int) -> int:
    """The largest power of two that is at most `value`, which is at least 1."""
    return 1 << (value.bit_length() - 1)


def _uncut_lengths(split: Split, base: BaseModel, task: Task, *, seed: int) -> list[int]:
    rows = np.random.default_rng(seed).permutation(len(split.labels))[:_SAMPLED_ROWS].tolist()
    return train.uncut_lengths(split, sorted(rows), base, task)


def _decision(name: str, value: int, rule: str) -> Decision:
    return Decision(setting=f"task.{name}", value=f"{value:,}", rule=rule)
