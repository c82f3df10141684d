"""The length of examples that the user leaves open, derived from the rows, the task and the base model."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from autopeft import train
from autopeft.data import LabelledData, Split
from autopeft.extension import Task
from autopeft.model import BaseModel
from autopeft.records import Decision, RunSpec, with_setting

PERCENTILE = 99  # of the rows that fit uncut; the longest few would decide memory and time; chosen by hand
MULTIPLE = 8  # of tokens, as matrix units like it
CPU_SHARE = 0.5  # of a GPU's tokens per step and per block, since a CPU's steps are slow; chosen by hand
_LONGER = 4  # times the task's most, where that would cut more than half of the rows; chosen by hand
_BLOCKS = 200  # of a packed train split, at least: enough for different batches in every step; by hand
_SAMPLED_ROWS = 2000  # whose tokens are counted; chosen by hand, for a percentile within some tokens

log = logging.getLogger(__name__)

Derived = tuple[RunSpec, tuple[Decision, ...]]


def with_max_length(spec: RunSpec, loaded: LabelledData, base: BaseModel, task: Task, device: str) -> Derived:
    """The settings with the tokens of an example; `device` is the type of what trains, such as cpu.

    What the user asks for is cut at what tokenizer and model take, after a warning.

    Raises DataError where the rows cannot be encoded.
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
        lengths = _uncut_lengths(loaded.train, base, task, seed=spec.search.seed, most=_LONGER * limits[1])
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
    """Tokens of an example, with the rule: the 99th percentile of its rows, within limits and the context.

    Where the upper limit would cut more than half of the rows, it is four times as high.

    Args:
        lengths: Tokens of the rows that were counted, nothing cut off; those above four times the upper limit
            are all alike.
        n_rows: Rows of the train split, of which the counted ones are a sample.
        limits: The least and the most by the task.
        room: Tokens that model and tokenizer take, None without a limit.
        limited_by: What limits these, in words.

    Example:
        >>> example_length([60, 90], n_rows=2, limits=(128, 512), room=None)
        (128, 'all of 2 train rows fit, the longest has 90 tokens')
        >>> example_length([60, 90], n_rows=2, limits=(16, 64), room=None)
        (64, 'the most by default; 1 of 2 train rows are cut, the longest has 90 tokens')
        >>> example_length([90, 90], n_rows=2, limits=(16, 64), room=None)
        (96, 'all of 2 train rows fit, the longest has 90 tokens')
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


def decision(name: str, value: int, rule: str) -> Decision:
    """The decision about a setting of the task."""
    return Decision(setting=f"task.{name}", value=f"{value:,}", rule=rule)


def _uncut_lengths(split: Split, base: BaseModel, task: Task, *, seed: int, most: int) -> list[int]:
    rows = np.random.default_rng(seed).permutation(len(split.labels))[:_SAMPLED_ROWS].tolist()
    return train.uncut_lengths(split, sorted(rows), base, task, most=most)
