"""Keeps batches on the device: all plans see the same rows, so that a batch is collated once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autopeft.model.training_pass import padding_aware
from autopeft.plugins import Batch, PlacesBatches, Task
from autopeft.train.encoding import EncodedSplit

_MASK = "attention_mask"  # the feature that is 0 at padding
# Measurements after which a batch that none of them used makes room: a full run of every seed for two plans,
# or two rounds of proposals; chosen by hand.
_IDLE_MEASUREMENTS = 8


class Collated(NamedTuple):
    """A batch on the device, and the number of terms that its loss is the mean of."""

    batch: Batch
    n_terms: int


@dataclass
class _Entry:
    value: Collated
    n_bytes: int
    used_at: int  # the latest measurement that used it


@dataclass(kw_only=True)
class DeviceCache:
    """Keeps up to `max_bytes` of batches; 0 keeps none.

    A new batch replaces batches that the latest 8 measurements have not used, the least recently used first.
    If there are too few of these, the new batch is not kept. Plans go through the same batches in a circle:
    to drop a recent one would drop each just before its next use.
    """

    max_bytes: int
    n_bytes: int = 0  # kept now
    n_measurements: int = 0
    _entries: dict[Hashable, _Entry] = field(default_factory=dict)  # the least recently used first

    def get(self, key: Hashable) -> Collated | None:
        """Return the batch of a key, and note that this measurement used it; None if it is not kept."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        entry.used_at = self.n_measurements
        self._entries[key] = entry
        return entry.value

    def keep(self, key: Hashable, value: Collated, n_bytes: int) -> None:
        """Keep a batch if there is room for it."""
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


@dataclass(kw_only=True)
class Batches:
    """Collates the batches of some splits and puts them on the device; nothing may change their tensors.

    `pad_token_id` fills short rows. With `marks_masks`, each attention mask carries whether it has padding.
    """

    splits: Mapping[str, EncodedSplit]
    task: Task
    pad_token_id: int
    device: torch.device
    cache: DeviceCache
    marks_masks: bool = False

    def get(self, split: str, rows: Sequence[int]) -> Collated:
        """Return the batch of some rows of a split; the caller may change the dictionary, not its tensors."""
        key = (split, np.asarray(rows, dtype=np.int32).tobytes())
        collated = self.cache.get(key)
        if collated is None:
            collated, n_bytes = self._collate(split, rows)
            self.cache.keep(key, collated, n_bytes)
        return Collated(dict(collated.batch), collated.n_terms)

    def _collate(self, split: str, rows: Sequence[int]) -> tuple[Collated, int]:
        encoded, task = self.splits[split], self.task
        examples, labels = [encoded.examples[i] for i in rows], [encoded.labels[i] for i in rows]
        # Evaluation asks in inference mode, and a tensor made in it cannot be saved for a backward pass.
        with torch.inference_mode(mode=False):
            batch = task.collate(examples, labels, self.pad_token_id)
            n_terms = task.n_terms(batch)  # counted on the CPU, so that nothing waits for the device
            sizes: list[int] = []

            def place(tensor: Tensor) -> Tensor:
                sizes.append(tensor.nbytes)
                if self.device.type != "cuda":
                    return tensor.to(self.device)
                # The device copies this batch while it computes the step before.
                return tensor.pin_memory().to(self.device, non_blocking=True)

            if isinstance(task, PlacesBatches):
                placed = task.placed(batch, place)
            else:
                placed = {name: place(tensor) for name, tensor in batch.items()}
            mask = batch.get(_MASK)
            if self.marks_masks and mask is not None:
                placed[_MASK] = padding_aware(placed[_MASK], seen_as=mask)
        return Collated(placed, n_terms), sum(sizes)
