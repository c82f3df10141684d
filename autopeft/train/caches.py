"""What stays on the device for the plans that follow: batches, and outputs of frozen layers.

All plans see the same rows in the same order, so that a batch is collated once. Plans that train in upper
layers alone share what the layers below give for it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from autopeft.extension import Batch, PlacesBatches, Task
from autopeft.model import is_out_of_memory, release_memory
from autopeft.model.training_pass import (
    FrozenPrefix,
    KnownOutput,
    frozen_prefix,
    padding_aware,
    skips_exactly,
)
from autopeft.train.encoding import EncodedSplit

_MASK = "attention_mask"  # the feature that is 0 at padding
# Measurements after which a value that none of them used makes room: a full run of every seed for two plans,
# or two rounds of proposals; chosen by hand.
_IDLE_MEASUREMENTS = 8

Value = TypeVar("Value")
Loss = Callable[[nn.Module, Batch], Tensor]
BatchKey = tuple[str, tuple[int, ...], bool]  # split, rows, and whether the model was training
Kind = tuple[int, tuple[str, ...], bool]  # skipped layers, what trains outside the layers, training or not

log = logging.getLogger(__name__)


@dataclass
class _Entry(Generic[Value]):
    value: Value
    n_bytes: int
    used_at: int  # the latest measurement that used it


@dataclass(kw_only=True)
class DeviceCache(Generic[Value]):
    """Keeps values up to `max_bytes`, 0 for none.

    A new value takes the place of those that the latest 8 measurements have not used, the least recently used
    first. Where there are none it is not kept: all plans go through the same values in a circle, and would
    lose each just before its use.
    """

    max_bytes: int
    n_bytes: int = 0  # kept now
    n_measurements: int = 0
    _entries: dict[Hashable, _Entry[Value]] = field(default_factory=dict)  # the least recently used first

    def get(self, key: Hashable) -> Value | None:
        """The value of a key, which this measurement uses; None where it is not kept."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        entry.used_at = self.n_measurements
        self._entries[key] = entry
        return entry.value

    def keep(self, key: Hashable, value: Value, n_bytes: int) -> None:
        """Keep a value if there is room for it."""
        while self._entries and self.n_bytes + n_bytes > self.max_bytes:
            oldest = next(iter(self._entries))
            if self._entries[oldest].used_at > self.n_measurements - _IDLE_MEASUREMENTS:
                return
            self.n_bytes -= self._entries.pop(oldest).n_bytes
        if self.n_bytes + n_bytes <= self.max_bytes:
            self._entries[key] = _Entry(value, n_bytes, self.n_measurements)
            self.n_bytes += n_bytes

    def clear(self) -> None:
        """Free all memory."""
        self._entries.clear()
        self.n_bytes = 0


class Collated(NamedTuple):
    """A batch on the device, and the number of terms that its loss is the mean of."""

    batch: Batch
    n_terms: int


@dataclass(kw_only=True)
class Batches:
    """Collates the batches of some splits and puts them on the device; nothing may change their tensors.

    `pad_token_id` fills short rows. With `marks_masks`, attention masks know whether they have padding.
    """

    splits: Mapping[str, EncodedSplit]
    task: Task
    pad_token_id: int
    device: torch.device
    cache: DeviceCache[Collated]
    marks_masks: bool = False

    def get(self, split: str, rows: Sequence[int]) -> Collated:
        """The batch of some rows of a split; the dictionary is the caller's own, its tensors are shared."""
        key = (split, np.asarray(rows, dtype=np.int32).tobytes())
        collated = self.cache.get(key)
        if collated is None:
            collated, n_bytes = self._collate(split, rows)
            self.cache.keep(key, collated, n_bytes)
        return Collated(dict(collated.batch), collated.n_terms)

    def _collate(self, split: str, rows: Sequence[int]) -> tuple[Collated, int]:
        encoded, task = self.splits[split], self.task
        examples, labels = [encoded.examples[i] for i in rows], [encoded.labels[i] for i in rows]
        # A task asks for its batches in inference mode, whose tensors no later graph could save.
        with torch.inference_mode(mode=False):
            batch = task.collate(examples, labels, self.pad_token_id)
            n_terms = task.n_terms(batch)  # counted on the CPU, so that nothing waits for the device
            sizes: list[int] = []

            def place(tensor: Tensor) -> Tensor:
                sizes.append(tensor.nbytes)
                if self.device.type != "cuda":
                    return tensor.to(self.device)
                # The copy runs beside the step before.
                return tensor.pin_memory().to(self.device, non_blocking=True)

            if isinstance(task, PlacesBatches):
                placed = task.placed(batch, place)
            else:
                placed = {name: place(tensor) for name, tensor in batch.items()}
            mask = batch.get(_MASK)
            if self.marks_masks and mask is not None:
                placed[_MASK] = padding_aware(placed[_MASK], seen_as=mask)
        return Collated(placed, n_terms), sum(sizes)


@dataclass(kw_only=True)
class FrozenOutputs:
    """Skips frozen layers in short runs, by their outputs for the same batches in earlier plans.

    A plan whose lowest adapter lies in layer k starts from the highest layer up to k whose output is kept.
    For a new kind of plan a few rows are run twice, with all layers and without those: unless loss and
    gradients are equal to the bit, nothing is skipped for plans of that kind (dropout below the adapters,
    trained embeddings). Where memory runs out in this trial, nothing is skipped in the measurement at hand,
    and the next one tries again.
    """

    cache: DeviceCache[KnownOutput]
    _is_exact: dict[Kind, bool] = field(default_factory=dict)
    _untried: set[Kind] = field(default_factory=set)  # had no room for the trial in this measurement
    _keys: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)  # of a batch's tensor
    _prefix: FrozenPrefix | None = None  # of the plan that is measured now

    @contextlib.contextmanager
    def used_by(self, model: nn.Module) -> Iterator[None]:
        """A context in which frozen layers of a model with a plan are skipped where that changes no bit."""
        self._prefix = frozen_prefix(model)
        self._untried.clear()
        self.cache.n_measurements += 1
        try:
            with self._prefix.installed() if self._prefix else contextlib.nullcontext():
                yield
        finally:
            self._prefix = None

    def note(self, batch: Batch, split: str, rows: Sequence[int]) -> None:
        """Remember of which rows a batch was made; batches that are not noted are run with all layers."""
        self._keys[next(iter(batch.values()))] = (split, tuple(rows))

    def expect(self, batch: Batch, loss: Loss) -> None:
        """Announce the batch on which the model is called next, and how its loss is computed."""
        prefix, tensor = self._prefix, next(iter(batch.values()))
        if prefix is None or tensor not in self._keys:
            return
        if not self._may_skip(prefix, batch, loss):
            prefix.expect({}, None, None)
            return
        key = (*self._keys[tensor], prefix.model.training)
        depths = range(len(prefix.layers), 0, -1)
        outputs = (self.cache.get((key, depth)) for depth in depths)
        deepest = next((output for output in outputs if output is not None), None)
        prefix.expect(batch, deepest, partial(self._keep, key))

    def _may_skip(self, prefix: FrozenPrefix, batch: Batch, loss: Loss) -> bool:
        kind = (len(prefix.layers), prefix.trained_outside, prefix.model.training)
        if kind in self._is_exact or kind in self._untried:
            return self._is_exact.get(kind, False)
        try:
            self._is_exact[kind] = skips_exactly(prefix, loss, batch)
            verb = "are" if self._is_exact[kind] else "cannot be"
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._untried.add(kind)
            verb = "are for want of memory not"
        phase = "training" if prefix.model.training else "evaluation"
        log.debug("The lowest %d layers %s skipped in %s.", len(prefix.layers), verb, phase)
        if kind in self._untried:
            release_memory(next(prefix.model.parameters()).device)  # after the handler, which holds tensors
        return self._is_exact.get(kind, False)

    def _keep(self, key: BatchKey, output: KnownOutput) -> None:
        self.cache.keep((key, output.n_layers), output, output.n_bytes)
