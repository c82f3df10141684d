"""Collated batches on the device, kept for the next plan, which sees the same rows in the same order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from autopeft.extension import Batch, PlacesBatches, Task
from autopeft.model.training_pass import known_mask
from autopeft.train.encoding import EncodedSplit

_MASK = "attention_mask"  # the feature that is 0 at padding

# Measurements after which a batch that none of them used makes room: a full run of every seed, for two
# plans or more; chosen by hand.
_IDLE_MEASUREMENTS = 8


class Collated(NamedTuple):
    """A batch on the device, and the number of terms that its loss is the mean of."""

    batch: Batch
    n_terms: int


@dataclass(kw_only=True)
class Batches:
    """The batches of some splits by their rows; nothing may change the tensors of a batch in place.

    Batches stay on the device up to `max_bytes`. A new one takes the place of those that some measurements
    have not used, the least recently used first. Where there are none it is not kept: all plans go
    through the same batches in a circle, and would lose each just before its use.

    Attributes:
        splits: By name.
        task: That of all splits.
        pad_token_id: Fills short rows.
        device: Where batches go.
        max_bytes: Most bytes of all that are kept; 0 keeps none.
        knows_masks: Whether it is noted of attention masks whether they have padding.
    """

    splits: Mapping[str, EncodedSplit]
    task: Task
    pad_token_id: int
    device: torch.device
    max_bytes: int
    knows_masks: bool = False
    n_bytes: int = 0
    _kept: dict[_Key, _Kept] = field(default_factory=dict)  # the least recently used first
    _measurement: int = 0

    def next_measurement(self) -> None:
        """Note that another measurement begins."""
        self._measurement += 1

    def clear(self) -> None:
        """Free all memory."""
        self._kept.clear()
        self.n_bytes = 0

    def get(self, split: str, rows: Sequence[int]) -> Collated:
        """The batch of some rows of a split; the dictionary is the caller's own, its tensors are shared."""
        key = (split, np.asarray(rows, dtype=np.int32).tobytes())
        kept = self._kept.pop(key, None)
        if kept is None:
            kept = self._made(split, rows)
            while self._kept and self.n_bytes + kept.n_bytes > self.max_bytes:
                idle = next(iter(self._kept))
                if self._kept[idle].used_at > self._measurement - _IDLE_MEASUREMENTS:
                    break
                self.n_bytes -= self._kept.pop(idle).n_bytes
        else:
            self.n_bytes -= kept.n_bytes
        if self.n_bytes + kept.n_bytes <= self.max_bytes:
            kept.used_at = self._measurement
            self._kept[key] = kept
            self.n_bytes += kept.n_bytes
        batch, n_terms = kept.collated
        return Collated(dict(batch), n_terms)

    def _made(self, split: str, rows: Sequence[int]) -> _Kept:
        encoded, task = self.splits[split], self.task
        examples, labels = [encoded.examples[i] for i in rows], [encoded.labels[i] for i in rows]
        # A task asks for its batches in inference mode, whose tensors no later graph could save.
        with torch.inference_mode(mode=False):
            batch = task.collate(examples, labels, self.pad_token_id)
            n_terms = task.n_terms(batch)  # counted on the CPU, so that nothing waits for the device
            sizes: list[int] = []

            def place(tensor: torch.Tensor) -> torch.Tensor:
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
            if self.knows_masks and mask is not None:
                placed[_MASK] = known_mask(placed[_MASK], seen_as=mask)
        return _Kept(Collated(placed, n_terms), sum(sizes))


_Key = tuple[str, bytes]  # a split, and its rows


@dataclass
class _Kept:
    collated: Collated
    n_bytes: int
    used_at: int = 0  # the latest measurement that used it
