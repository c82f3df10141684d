"""Encodes splits as token features, and draws the order in which a run sees their rows."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autopeft.data import LabelledData, Split
from autopeft.errors import DataError, ModelError, reason_of
from autopeft.model import BaseModel, is_out_of_memory
from autopeft.model.checks import PASS_ERRORS
from autopeft.plugins import Example, Task

log = logging.getLogger(__name__)


class OverflowInFloat16Error(ModelError):
    """The loss of an example is not finite in float16."""


NO_CUT = 10**9  # tokens, more than any row has
_SORTED_BATCHES = 16  # batches whose rows are sorted by length together, to save padding; heuristic
_SUBSET_SEED = 20  # of the rows that short runs are ranked on; any fixed number
IMAGE_TOKENS = 196  # counted for an image: 224 × 224 pixels in patches of 16 × 16, as in ViT
_COUNTED_ROWS = 2000  # rows of a long text whose tokens are counted; heuristic
_COUNTED_CHARACTERS = 4_000_000  # the most of these rows; heuristic


@dataclass(frozen=True, kw_only=True)
class EncodedSplit:
    """One split as token features; `examples` and `labels` have one entry per example."""

    examples: Sequence[Example]
    labels: Sequence[Any]
    rows: tuple[int, ...] | None = None  # the row of each example; None if no row was dropped
    n_late: int = 0  # examples at the end that a full run sees only after the steps of its short run

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per example; 1 if it has none (an image)."""
        return np.array([*map(_length_of, self.examples)], dtype=np.int64)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Tokens that an example adds to a batch: its own, or its labels if more."""
        return np.array([*map(_size_of, self.examples, self.labels)], dtype=np.int64)

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return int(self.lengths.max())

    def largest_rows(self, n_rows: int) -> list[int]:
        """Return the rows that add the most tokens to a batch, the largest last."""
        rows: list[int] = self.sizes.argsort(kind="stable")[-n_rows:].tolist()
        return rows

    @property
    def n_early(self) -> int:
        """The number of examples, at the beginning, that a short run may see."""
        return len(self.examples) - self.n_late

    def subset(self, n_examples: int) -> list[int]:
        """Draw random rows to judge a short run on, ascending; the same for all plans."""
        order: list[int] = np.random.default_rng(_SUBSET_SEED).permutation(len(self.examples)).tolist()
        return sorted(order[:n_examples])


def encode_splits(
    data: LabelledData, *, base: BaseModel, task: Task, max_length: int | None
) -> dict[str, EncodedSplit]:
    """Encode the non-empty splits of a dataset; raise ModelError if the model cannot take a train row.

    The rows of the search split are also the late ones of the train split.
    """
    encode = partial(encode_split, base=base, task=task, max_length=max_length)
    splits = (data.train, data.search, data.confirm, data.test)
    if not task.defaults.is_packed:
        splits = (data.joined("train", "search"), *splits[1:])
    encoded = {split.name: encode(split) for split in splits if split.inputs}
    train = encoded["train"]
    if task.defaults.is_packed:  # no block holds rows of both
        search = encoded["search"]
        train = replace(
            train, examples=(*train.examples, *search.examples), labels=(*train.labels, *search.labels)
        )
    encoded["train"] = replace(train, n_late=len(encoded["search"].examples))
    _require_fit(encoded["train"], base, task)
    return encoded


def encode_split(split: Split, *, base: BaseModel, task: Task, max_length: int | None) -> EncodedSplit:
    """Encode one split in at most `max_length` tokens a row, without the rows that the task drops.

    Raises DataError if the task refuses the rows, ModelError if the model has no embedding for a token.
    """
    longest = min(max_length or NO_CUT, max_length_of(base) or NO_CUT)
    encoded = task.encode(split.inputs, split.labels, base.tokenizer, longest)
    _require_known_tokens([row["input_ids"] for row in encoded.examples if "input_ids" in row], base)
    if task.peft_task_type == "SEQ_2_SEQ_LM":  # the only task whose labels are rows of tokens
        _require_known_tokens(encoded.labels, base)
    if encoded.refusal:
        raise DataError(encoded.refusal)
    for note in encoded.notes:
        log.warning("%s: %s", split.name, note)
    dropped = frozenset(encoded.dropped)
    kept = tuple(i for i in range(len(encoded.examples)) if i not in dropped)
    return EncodedSplit(
        examples=tuple(encoded.examples[i] for i in kept),
        labels=tuple(encoded.labels[i] for i in kept),
        rows=kept if dropped else None,
    )


def _length_of(example: Example) -> int:
    return len(example.get("input_ids", ())) or 1


def _size_of(example: Example, label: Any) -> int:
    n_tokens = len(example.get("input_ids", ()))
    n_labels = len(label) if isinstance(label, Sequence | np.ndarray) else 0
    return max(n_tokens, n_labels) if n_tokens else IMAGE_TOKENS


def max_length_of(base: BaseModel) -> int | None:
    """Return the most tokens that tokenizer and model take; None without a limit."""
    # An image processor has no such limit, and some tokenizers have one of 1e30.
    limits = (base.max_tokens, getattr(base.tokenizer, "model_max_length", None))
    return min((limit for limit in limits if limit is not None and limit < NO_CUT), default=None)


def _require_fit(split: EncodedSplit, base: BaseModel, task: Task) -> None:
    """Raise ModelError if the loss of the longest and shortest example cannot be computed in train mode.

    Raises OverflowInFloat16Error if the model computes in float16 and the loss is not finite.
    """
    rows = sorted({int(split.lengths.argmax()), int(split.lengths.argmin())})
    batch = task.collate(
        [split.examples[row] for row in rows], [split.labels[row] for row in rows], base.pad_token_id
    )
    try:
        with base.in_train_mode(), torch.no_grad(), base.autocast():
            placed = {name: tensor.to(base.device) for name, tensor in batch.items()}
            loss = float(task.loss(base.module, placed))  # waits for the GPU, which raises only then
    except PASS_ERRORS as error:
        if is_out_of_memory(error):
            raise
        reason = reason_of(error)
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in batch.items())
        raise ModelError(
            f"{base.name} cannot take an example of {task.name} ({shapes}): {reason}; use a base "
            "model for that task, with the tokenizer or image processor that belongs to it."
        ) from error
    if base.precision.dtype == "float16" and not math.isfinite(loss):
        raise OverflowInFloat16Error(f"The loss of {base.name} is {loss} in float16; pass --dtype float32.")


def _require_known_tokens(rows: Sequence[Sequence[int]], base: BaseModel) -> None:
    """Raise ModelError if the model has no embedding for a token of rows or padding."""
    if not rows:
        return
    largest = max(base.pad_token_id, *(int(np.max(row, initial=0)) for row in rows))
    try:
        n_tokens = len(base.module.get_input_embeddings().weight)  # type: ignore[operator]
    except (NotImplementedError, AttributeError):  # CANINE hashes characters: any token is known
        return
    if largest >= n_tokens:
        raise ModelError(
            f"The tokenizer of {base.name} has token {largest}, the model only {n_tokens} tokens; use the "
            "tokenizer and the weights of one model, or save the model with resized embeddings."
        )


def train_rows(
    lengths: NDArray[np.int64],
    *,
    n_steps: int,
    batch_size: int,
    seed: int,
    n_late: int = 0,
    late_from: int = 0,
) -> list[list[int]]:
    """Draw the rows of each step, in the same order for all plans.

    The last `n_late` rows are left out before step `late_from`, where they join the rows that the epoch has
    not reached yet. A longer run begins with the rows of a shorter one.
    """
    rng, n_rows = np.random.default_rng(seed), len(lengths)
    batches: list[list[int]] = []
    if n_late:
        n_early, epoch = n_rows - n_late, list[list[int]]()
        while len(batches) < min(late_from, n_steps):
            size = min(batch_size, n_early)
            epoch = list(epoch_batches(lengths, np.arange(n_early), batch_size=size, rng=rng))
            epoch = epoch[: min(late_from, n_steps) - len(batches)]
            batches += epoch
        rest = np.setdiff1d(np.arange(n_rows), [row for batch in epoch for row in batch])
        remaining = epoch_batches(lengths, rest, batch_size=min(batch_size, n_rows), rng=rng)
        batches += islice(remaining, n_steps - len(batches))
    while len(batches) < n_steps:
        size = min(batch_size, n_rows)
        epoch_of_all = epoch_batches(lengths, np.arange(n_rows), batch_size=size, rng=rng)
        batches += islice(epoch_of_all, n_steps - len(batches))
    return batches


def epoch_batches(
    lengths: NDArray[np.int64], rows: NDArray[np.int64], *, batch_size: int, rng: np.random.Generator
) -> Iterator[list[int]]:
    """Yield the full batches of one epoch in random order, each of rows of similar length.

    A random remainder that fills no batch is left out. Sorting chunks of 16 batches by length lowers the
    share of padding from about half to a tenth.
    """
    order = rng.permutation(rows)
    order = order[: len(order) - len(order) % batch_size]
    chunk = batch_size * _SORTED_BATCHES
    for start in range(0, len(order), chunk):
        some = order[start : start + chunk]
        batches = some[np.lexsort((some, lengths[some]))].reshape(-1, batch_size)
        yield from rng.permutation(batches).tolist()


def uncut_lengths(split: Split, rows: Sequence[int], base: BaseModel, task: Task, *, most: int) -> list[int]:
    """Count the tokens of rows before truncation, up to `most` + 1; of pairs those of the longer text."""
    inputs, labels = [split.inputs[i] for i in rows], [split.labels[i] for i in rows]
    encoded = task.encode(inputs, labels, base.tokenizer, most + 1)
    lengths = [_length_of(example) for example in encoded.examples]
    if task.peft_task_type != "SEQ_2_SEQ_LM":
        return lengths
    return [max(length, len(label)) for length, label in zip(lengths, encoded.labels, strict=True)]


def count_tokens(split: Split, base: BaseModel, task: Task, *, block_length: int) -> int:
    """Count the tokens of a split that is packed; estimate a long one by its beginning."""
    n_characters = sum(len(str(cell)) for row in split.inputs for cell in row)
    beginning, n_remaining = [], _COUNTED_CHARACTERS
    for row in split.inputs[:_COUNTED_ROWS]:
        if n_remaining <= 0:
            break
        beginning.append(tuple(str(cell)[:n_remaining] for cell in row))
        n_remaining -= sum(map(len, beginning[-1]))
    encoded = task.encode(beginning, split.labels[: len(beginning)], base.tokenizer, block_length)
    counted = sum(map(_length_of, encoded.examples))
    return counted * n_characters // max(1, sum(len(cell) for row in beginning for cell in row))
