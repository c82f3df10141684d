"""DERIVE: the settings of a full run that the user leaves open, from the facts of rows, task and model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from autopeft import train
from autopeft.plugins import Task, TaskDefaults, last_answer
from autopeft.types import Decision, RunSpec, TaskSpec, with_setting

PERCENTILE = 99  # of the rows that fit uncut; the longest few would decide memory and time; heuristic
MULTIPLE = 8  # of tokens, as matrix units like it
CPU_SHARE = 0.5  # of a GPU's tokens per step and per block, since a CPU's steps are slow; heuristic
LONGER = 4  # the task's upper limit grows by this if it would cut more than half of the rows; heuristic
_BLOCKS = 200  # of a packed train split, at least: enough for different batches in every step; heuristic
_LONGER_ANSWER = 1.25  # a model's answer may be longer than the true one; heuristic
_BATCHES = 8  # in an epoch, at least; heuristic


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the settings are derived from.

    The functions tokenize rows, which takes long: each is called only if a setting depends on its answer.

    Attributes:
        device: Type of the device, such as cpu.
        n_rows: Rows of the train split.
        max_tokens: Tokens of a row that tokenizer and model take; None without a limit.
        limited_by: What sets `max_tokens`, such as "the model's context".
        row_tokens: Count the tokens of some train rows, uncut up to `LONGER` times the task's upper limit.
        text_tokens: Count the tokens of a train split that is packed into blocks.
        encode: Encode the train split, in at most so many tokens a row.
    """

    task: Task
    device: str
    n_rows: int
    max_tokens: int | None
    limited_by: str
    row_tokens: Callable[[], Sequence[int]]
    text_tokens: Callable[[], int]
    encode: Callable[[int | None], train.EncodedSplit]


@dataclass(frozen=True, kw_only=True)
class Derived:
    """The settings of a full run, and by what rule those were chosen that the user left open.

    `max_new_tokens` is None if the task generates no answers.
    """

    spec: RunSpec
    batch_size: int
    full_steps: int
    max_new_tokens: int | None
    decisions: tuple[Decision, ...]


def derive(spec: RunSpec, facts: Facts) -> Derived:
    """Derive the length of examples, batch size, epochs and length of answers; set ones are kept.

    Only a length beyond what tokenizer and model take is lowered. Raises DataError if the rows cannot be
    encoded.
    """
    defaults = facts.task.defaults
    chosen: dict[str, tuple[int, str]] = {}
    requested, most = spec.task.max_length, facts.max_tokens
    if requested is not None and most is not None and requested > most:
        chosen["max_length"] = most, f"{facts.limited_by}, which is below --max-length {requested:,}"
    elif requested is None and defaults.max_length is not None:
        chosen["max_length"] = _max_length(facts, defaults.max_length)
    max_length = chosen["max_length"][0] if "max_length" in chosen else requested
    examples = facts.encode(max_length)
    n_train = len(examples.labels)
    if spec.task.batch_size is None:
        lengths = examples.lengths[examples.typical].tolist()
        share = CPU_SHARE if facts.device == "cpu" else 1.0
        chosen["batch_size"] = batch_size(lengths, n_train=n_train, defaults=defaults, share=share)
    if spec.task.epochs is None and spec.task.max_steps is None:
        chosen["epochs"] = epochs(n_train, defaults=defaults)
    for name, (value, _) in chosen.items():
        spec = with_setting(spec, f"task.{name}", float(value) if name == "epochs" else value)
    if defaults.max_new_tokens is not None:
        chosen["max_new_tokens"] = answer_length(_answers(examples), limits=defaults.max_new_tokens)
    decisions = tuple(
        Decision(setting=f"task.{name}", value=f"{value:,}", rule=rule)
        for name, (value, rule) in chosen.items()
    )
    n_per_step, full_steps = full_run(spec.task, n_train)
    return Derived(
        spec=spec,
        batch_size=n_per_step,
        full_steps=full_steps,
        max_new_tokens=chosen["max_new_tokens"][0] if "max_new_tokens" in chosen else None,
        decisions=decisions,
    )


def full_run(task: TaskSpec, n_train: int) -> tuple[int, int]:
    """Return the examples of a step, and the steps of a full run."""
    n_per_step = min(task.batch_size or n_train, n_train)
    n_steps = train.full_run_steps(
        n_train=n_train, batch_size=n_per_step, epochs=task.epochs, max_steps=task.max_steps
    )
    return n_per_step, n_steps


def _max_length(facts: Facts, limits: tuple[int, int]) -> tuple[int, str]:
    if not facts.task.defaults.is_packed:
        return example_length(
            facts.row_tokens(),
            n_rows=facts.n_rows,
            limits=limits,
            max_tokens=facts.max_tokens,
            limited_by=facts.limited_by,
        )
    most = int(limits[1] * (CPU_SHARE if facts.device == "cpu" else 1))
    return block_length(facts.text_tokens(), limits=(limits[0], min(most, facts.max_tokens or most)))


def _answers(examples: train.EncodedSplit) -> list[int]:
    return [len(last_answer(examples.labels[i])[1]) for i in examples.typical]


def example_length(
    lengths: Sequence[int],
    *,
    n_rows: int,
    limits: tuple[int, int],
    max_tokens: int | None,
    limited_by: str = "the model's context",
) -> tuple[int, str]:
    """Derive the tokens of an example: the 99th percentile of the rows, within limits and the context.

    The upper limit is four times as high if it would cut more than half of the rows. Returns the length, and
    the rule that decided it in words, as the functions below do. `lengths` are `Facts.row_tokens`.
    """
    typical = max(limits[0], _in_multiples(_percentile(lengths)))
    n_long = sum(length > limits[1] for length in lengths)
    most = LONGER * limits[1] if 2 * n_long > len(lengths) else limits[1]
    value = min(typical, most, max_tokens or typical)
    n_cut = sum(length > value for length in lengths)
    rows = f"{len(lengths):,} {'' if len(lengths) == n_rows else 'sampled '}train rows"
    if not n_cut:
        return value, f"all of {rows} fit, the longest has {max(lengths):,} tokens"
    if value == typical:
        why = f"the {PERCENTILE}th percentile"
    else:
        why = limited_by if value == max_tokens else "the most by default"
    return value, f"{why}; {n_cut:,} of {rows} are cut"


def block_length(n_tokens: int, *, limits: tuple[int, int]) -> tuple[int, str]:
    """Derive the tokens of a block of text: the most, halved until there are 200 blocks."""
    least, value = limits
    while value // 2 >= least and n_tokens // value < _BLOCKS:
        value //= 2
    if value == limits[1]:
        return value, f"the most by default, or by the model; about {n_tokens // value:,} train blocks"
    return value, f"about {n_tokens // value:,} train blocks; longer ones would be fewer than {_BLOCKS}"


def answer_length(lengths: Sequence[int], *, limits: tuple[int, int]) -> tuple[int, str]:
    """Derive the tokens to generate per answer: the 99th percentile of the true ones, and a quarter more."""
    typical = _in_multiples(int(_percentile(lengths) * _LONGER_ANSWER))
    value = min(max(typical, limits[0]), limits[1])
    if value == typical:
        why = f"a quarter more than the {PERCENTILE}th percentile"
    else:
        why = "the least" if value > typical else "the most"
    return value, f"{why}; the longest completion has {max(lengths):,} tokens"


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
    rule = f"{least} to {most} by size, up to {defaults.seen_examples:,} examples; train has {n_train:,}"
    return value, rule


def _power_of_two(value: int) -> int:
    return 1 << (value.bit_length() - 1)


def _percentile(lengths: Sequence[int]) -> int:
    return int(np.percentile(lengths, PERCENTILE, method="inverted_cdf"))


def _in_multiples(value: int) -> int:
    return -(-value // MULTIPLE) * MULTIPLE
