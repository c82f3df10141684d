"""Settings of a full run that the user leaves open, derived from the encoded examples and the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, cast

import numpy as np

from autopeft import train
from autopeft.extension import IGNORED, Task, TaskDefaults
from autopeft.pipeline.example_length import CPU_SHARE, MULTIPLE, PERCENTILE, Derived, decision
from autopeft.records import Decision, RunSpec, with_setting

_LONGER_ANSWER = 1.25  # a model's answer may be longer than the true one; chosen by hand
_BATCHES = 8  # in an epoch, at least; chosen by hand


def with_full_run(spec: RunSpec, examples: train.EncodedSplit, task: Task, device: str) -> Derived:
    """The settings with batch size and epochs; `examples` are those of train, `device` is a type."""
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
    """The task with the tokens of a generated answer, where its metric needs one.

    `examples` are those of train.
    """
    limits = task.defaults.max_new_tokens
    if limits is None:
        return task, ()
    lengths = [int((np.asarray(examples.labels[i]) != IGNORED).sum()) for i in examples.typical]
    value, rule = answer_length(lengths, limits=limits)
    return replace(cast(Any, task), max_new_tokens=value), (decision("max_new_tokens", value, rule),)


def answer_length(lengths: Sequence[int], *, limits: tuple[int, int]) -> tuple[int, str]:
    """Tokens to generate per answer, with the rule: the 99th percentile of the true ones and a quarter more.

    Example:
        >>> answer_length([40, 90], limits=(16, 1024))
        (112, 'a quarter more than the 99th percentile of the completions; the longest has 90 tokens')
        >>> answer_length([2, 3], limits=(16, 1024))
        (16, 'the least; the longest completion has 3 tokens')
    """
    quantile = int(np.percentile(lengths, PERCENTILE, method="inverted_cdf"))
    wanted = -(-int(quantile * _LONGER_ANSWER) // MULTIPLE) * MULTIPLE
    value, longest = min(max(wanted, limits[0]), limits[1]), max(lengths)
    if value == wanted:
        why = f"a quarter more than the {PERCENTILE}th percentile of the completions"
        return value, f"{why}; the longest has {longest:,} tokens"
    limit = "least" if value > wanted else "most"
    return value, f"the {limit}; the longest completion has {longest:,} tokens"


def batch_size(
    lengths: Sequence[int], *, n_train: int, defaults: TaskDefaults, share: float = 1.0
) -> tuple[int, str]:
    """Examples per step, a power of two, with the rule.

    `lengths` are tokens of train examples, or of a sample of these, `n_train` in all; `share` multiplies the
    tokens of a step.

    Example:
        >>> text = TaskDefaults(max_length=None, batch_size=(4, 16), epochs=(1, 3), step_tokens=4096)
        >>> batch_size([500] * 9, n_train=1000, defaults=text)
        (8, 'about 4,000 tokens a step')
    """
    least, most = defaults.batch_size
    mean = fmean(lengths)
    wanted = most if defaults.step_tokens is None else int(share * defaults.step_tokens / mean)
    value = _power_of_two(min(most, max(least, wanted)))
    few = _power_of_two(max(1, n_train // _BATCHES))
    if few < value:
        return few, f"an epoch has at least {_BATCHES} steps; there are {n_train:,} train examples"
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
