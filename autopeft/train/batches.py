"""Collates the rows of splits into batches and puts them on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from autopeft.model import BaseModel
from autopeft.plugins import Batch, PlacesBatches, Task
from autopeft.train.encoding import EncodedSplit

_WARNING_MODELS = ("gpt2", "openai-gpt")  # that warn of batches without an attention mask


class Collated(NamedTuple):
    """A batch on the device."""

    batch: Batch
    n_terms: int  # that its loss is the mean of


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Collates rows of splits and puts them on the device.

    With `omits_masks`, for causal models, batches have no attention mask: all padding is on the right, where
    no token attends to it. A mask would rule out flash attention by torch's kernels, and transformers waits
    for the device to look for padding in it: at each pass, with FlashAttention 2 in each layer.
    """

    splits: Mapping[str, EncodedSplit]
    task: Task
    pad_token_id: int
    device: torch.device
    omits_masks: bool = False

    def get(self, split: str, rows: Sequence[int]) -> Collated:
        """Collate some rows of a split."""
        encoded = self.splits[split]
        examples, labels = [encoded.examples[i] for i in rows], [encoded.labels[i] for i in rows]
        batch = self.task.collate(examples, labels, self.pad_token_id)
        n_terms = self.task.n_terms(batch)  # counted on the CPU, so that nothing waits for the device
        if self.omits_masks:
            batch.pop("attention_mask", None)
        if isinstance(self.task, PlacesBatches):
            placed = self.task.placed(batch, self._place)
        else:
            placed = {name: self._place(tensor) for name, tensor in batch.items()}
        return Collated(placed, n_terms)

    def _place(self, tensor: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return tensor.to(self.device)
        # The device copies this batch while it computes the step before.
        return tensor.pin_memory().to(self.device, non_blocking=True)


def can_omit_masks(base: BaseModel, task: Task) -> bool:
    """Whether no token attends to a later one, in a model that does not warn of a missing mask."""
    if task.peft_task_type != "CAUSAL_LM" or base.model_type in _WARNING_MODELS:
        return False
    return all(getattr(module, "is_causal", True) for module in base.module.modules())
